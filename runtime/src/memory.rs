//! Memory of the process that nobody uses.

#![allow(unsafe_code, reason = "allocator and kernel are told by calls of the C library")]

use std::ops::Range;

/// Gives memory that was freed back to the system, as far as the allocator does not do that by itself: glibc's keeps
/// what lies below something that is still in use. It takes milliseconds, during which others wait for memory.
pub fn give_back() {
    // SAFETY: the call touches no memory that is in use.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the pages of a mapped artifact that lie behind its code: what was read of them to load it is not needed to
/// call it, and the kernel maps whole neighbourhoods of what is read. Whoever reads there finds the
/// file's bytes as before.
///
/// # Safety
/// `image` is a private mapping of a file, and nothing behind `text`, which lies in it, was ever written to.
pub(crate) unsafe fn unmap_behind(text: &[u8], image: &Range<*const u8>) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the call reads a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Some(page) = usize::try_from(page).ok().filter(|page| page.is_power_of_two()) else {
            return;
        };
        let from = text.as_ptr_range().end.addr().next_multiple_of(page);
        let Some(length) = image.end.addr().checked_sub(from) else { return };
        let start = image.start.with_addr(from).cast_mut().cast();
        // SAFETY: the range is whole pages of a mapping of a file that were not written to, by the contract: their
        // bytes come from the file again. A refusal leaves all as it is.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    }
}
