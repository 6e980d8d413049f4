//! How long a thread keeps a core from others that want it: Linux's scheduler (EEVDF, since 6.12) lets each thread say.
//!
//! A thread of guests is busy for as long as guests are. Whoever else wakes up while they go on, a client on this machine,
//! the control plane or the beat that interrupts guests, should not wait for the milliseconds that a busy thread is given
//! otherwise. The thread gets no less of a core for that, only in smaller parts; since each costs a change of threads, it is
//! so only while guests go on.

#![allow(unsafe_code, reason = "the slice of a thread is set by a call of the system")]

/// What the thread is given at once: the least that the kernel knows.
#[cfg(target_os = "linux")]
const SHORT_NS: u64 = 100_000;
/// What the kernel thinks best.
#[cfg(target_os = "linux")]
const USUAL_NS: u64 = 0;

/// The slices of this thread are short until this is dropped, which is to be done here. A kernel that has no such thing
/// goes on as it did.
#[derive(Debug)]
pub(crate) struct Slice(());

impl Slice {
    pub(crate) fn short() -> Self {
        set(SHORT_NS);
        Self(())
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        set(USUAL_NS);
    }
}

/// The first version of the kernel's `struct sched_attr` (sched_setattr(2)).
#[cfg(target_os = "linux")]
#[repr(C)]
#[derive(Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    niceness: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

#[cfg(target_os = "linux")]
fn set(runtime_ns: u64) {
    let Some(mut attributes) = get() else { return };
    attributes.size = size_of::<Attributes>() as u32;
    attributes.runtime_ns = runtime_ns;
    // SAFETY: the kernel reads `size` bytes there. 0 is this thread.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "the kernel sets no slices: others may wait longer for a core");
    }
}

#[cfg(target_os = "linux")]
fn get() -> Option<Attributes> {
    let mut attributes = Attributes::default();
    let size = size_of::<Attributes>();
    // SAFETY: the kernel writes at most `size` bytes there. 0 is this thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    (got == 0).then_some(attributes)
}

#[cfg(not(target_os = "linux"))]
const SHORT_NS: u64 = 0;
#[cfg(not(target_os = "linux"))]
const USUAL_NS: u64 = 0;
#[cfg(not(target_os = "linux"))]
fn set(_: u64) {}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_thread_changes_its_slice_for_a_while_and_nothing_else() {
        std::thread::spawn(|| {
            let told = || get().map(|a| (a.policy, a.niceness, a.runtime_ns)).unwrap();
            let before = told();
            let short = Slice::short();
            // A kernel without slices has 0 here, before and after.
            let is_known = before.2 != 0;
            let expected = if is_known { SHORT_NS } else { 0 };
            assert_eq!(told(), (before.0, before.1, expected));
            drop(short);
            assert_eq!(told(), before);
        })
        .join()
        .unwrap();
    }
}
