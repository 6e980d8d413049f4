//! Linux's queue of orders (`io_submit`), as far as bytes are sent with it.

#![allow(unsafe_code, reason = "system calls that have no safe interface")]

use std::io;
use std::sync::MutexGuard;

use super::{AT_ONCE_MAX, Line};

/// `struct iocb` of `linux/aio_abi.h`, on machines that begin with the least byte.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Order {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Done {
    data: u64,
    order: u64,
    result: i64,
    second: i64,
}

/// `IOCB_CMD_PWRITE`.
const WRITE: u16 = 1;

/// The kernel's queue of orders, which for sockets are done when they are handed over.
pub(super) struct Kernel {
    context: libc::c_ulong,
}

impl Kernel {
    pub(super) fn open() -> Option<Self> {
        if cfg!(target_endian = "big") {
            return None;
        }
        let mut context: libc::c_ulong = 0;
        // SAFETY: `context` is a valid place that the call only writes to.
        let failed = unsafe {
            libc::syscall(libc::SYS_io_setup, AT_ONCE_MAX as libc::c_uint, &raw mut context)
        };
        (failed == 0).then_some(Self { context })
    }

    /// Sends what these connections have to say.
    pub(super) fn send(&self, lines: &mut [MutexGuard<'_, Line>]) {
        let done = if lines.len() > 1 { self.order(lines) } else { 0 };
        for line in &mut lines[done..] {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let (start, length) = (line.bytes.as_ptr().cast(), line.bytes.len());
            // SAFETY: the bytes are borrowed until the call is over, which only reads them.
            let sent = unsafe { libc::send(line.socket, start, length, flags) };
            let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error());
            line.sent(sent);
        }
    }

    /// The same by one order each; for how many of them, from the first on, that was done.
    fn order(&self, lines: &mut [MutexGuard<'_, Line>]) -> usize {
        let mut orders = [Order::default(); AT_ONCE_MAX];
        for (at, (order, line)) in orders.iter_mut().zip(lines.iter()).enumerate() {
            *order = Order {
                data: at as u64,
                opcode: WRITE,
                file: line.socket.cast_unsigned(),
                buffer: line.bytes.as_ptr().addr() as u64,
                length: line.bytes.len() as u64,
                ..Order::default()
            };
        }
        let count = lines.len().min(AT_ONCE_MAX);
        let mut pointers = [std::ptr::null_mut::<Order>(); AT_ONCE_MAX];
        let first = orders.as_mut_ptr();
        for (at, pointer) in pointers.iter_mut().enumerate() {
            // An address alone: nothing is read through it here.
            *pointer = first.wrapping_add(at);
        }
        // SAFETY: the first `count` pointers lead to orders, whose buffers are borrowed, both until all
        // orders are done, for which the next call waits.
        let taken = unsafe {
            let count = count as libc::c_long;
            libc::syscall(libc::SYS_io_submit, self.context, count, pointers.as_mut_ptr())
        };
        let taken = usize::try_from(taken).unwrap_or(0).min(count);
        let (mut done, mut seen) = ([Done::default(); AT_ONCE_MAX], 0);
        while seen < taken {
            let least = (taken - seen) as libc::c_long;
            // SAFETY: there is room for that many results behind the first `seen`.
            let came = unsafe {
                let place = done[seen..].as_mut_ptr();
                let for_ever = std::ptr::null_mut::<libc::timespec>();
                libc::syscall(libc::SYS_io_getevents, self.context, least, least, place, for_ever)
            };
            match usize::try_from(came) {
                Ok(came) => seen += came,
                // They are done all the same.
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // What became of them is not known: their connections end.
                Err(_) => break,
            }
        }
        let mut is_known = [false; AT_ONCE_MAX];
        for Done { data, .. } in &done[..seen] {
            usize::try_from(*data)
                .ok()
                .and_then(|at| is_known.get_mut(at))
                .into_iter()
                .for_each(|known| *known = true);
        }
        for (line, _) in lines[..taken].iter_mut().zip(is_known).filter(|(_, known)| !known) {
            line.sent(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        for Done { data, result, .. } in &done[..seen] {
            let result = usize::try_from(*result).map_err(|_| {
                io::Error::from_raw_os_error(i32::try_from(-*result).unwrap_or(libc::EIO))
            });
            if let Some(line) = usize::try_from(*data).ok().and_then(|at| lines.get_mut(at)) {
                line.sent(result);
            }
        }
        taken
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: the context is this one's own, and no order is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
