//! The canonical ABI by hand: values in a guest's memory, and its handles.
//!
//! Source: the component model's `CanonicalABI.md`. What a guest hands over is checked before it is
//! used, and a guest that breaks the rules traps. A handle is the place of its resource in the call's
//! own table, plus one: it can name nothing of another call.

#![allow(unsafe_code, reason = "a guest's allocator is called on the guest's own stack")]

use std::fmt::Display;
use std::ops::Add;

use wasmtime::component::Resource;
use wasmtime::{Caller, Func, Memory, Result, TypedFunc, ValRaw, bail};

use crate::host::Host;

/// A guest that has called the host.
pub(super) type Guest<'a> = Caller<'a, Host>;

/// Most bytes that a guest hands over in one call of a function of the host, as in
/// [`call`](crate::call).
const BYTES_MAX: usize = 4 << 20;

/// `cabi_realloc`: old place, old size, alignment, new size; the new place.
pub(super) type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;

/// A place in a guest's memory where a value goes. What is added to it does not wrap around.
#[derive(Clone, Copy, Debug)]
pub(super) struct At(u64);

impl At {
    pub(super) fn new(place: u32) -> Self {
        Self(place.into())
    }
}

impl Add<u32> for At {
    type Output = Self;

    fn add(self, bytes: u32) -> Self {
        Self(self.0 + u64::from(bytes))
    }
}

/// How the host reaches the memory of an instance.
#[derive(Default)]
pub(crate) struct Reach {
    memory: Option<Memory>,
    /// Of the type of [`Realloc`].
    realloc: Option<Func>,
    /// While the guest allocates for the host, it may call nothing of the host.
    shut: bool,
}

impl Reach {
    /// `realloc` is of the type of [`Realloc`].
    pub(super) fn new(memory: Option<Memory>, realloc: Option<Func>) -> Self {
        Self { memory, realloc, shut: false }
    }
}

/// A handle that the guest gives away.
pub(super) fn own<T: 'static>(handle: u32) -> Resource<T> {
    Resource::new_own(handle.wrapping_sub(1))
}

/// A handle that the guest lends.
pub(super) fn lent<T: 'static>(handle: u32) -> Resource<T> {
    Resource::new_borrow(handle.wrapping_sub(1))
}

/// A resource as the guest names it.
pub(super) fn handle<T: 'static>(resource: &Resource<T>) -> u32 {
    resource.rep() + 1
}

/// The host's side, for a call that may be made now.
pub(super) fn host<'a>(guest: &'a mut Guest<'_>) -> Result<&'a mut Host> {
    let host = guest.data_mut();
    if host.reach.shut {
        bail!("cannot leave component instance");
    }
    Ok(host)
}

/// The guest's memory and the host's side.
pub(super) fn memory<'a>(guest: &'a mut Guest<'_>) -> Result<(View<'a>, &'a mut Host)> {
    let Some(memory) = host(guest)?.reach.memory else { bail!("the module exports no memory") };
    let (bytes, host) = memory.data_and_store_mut(guest);
    Ok((View { bytes, left: BYTES_MAX }, host))
}

/// Space in the guest's memory, which the guest allocates: on the stack that it runs on. Only for
/// functions of the host that are not asynchronous.
fn allocate(guest: &mut Guest<'_>, align: u32, bytes: usize) -> Result<u32> {
    let (realloc, size) = (realloc_of(guest)?, u32::try_from(bytes)?);
    let mut values = [ValRaw::u32(0), ValRaw::u32(0), ValRaw::u32(align), ValRaw::u32(size)];
    guest.data_mut().reach.shut = true;
    // SAFETY: its type was compared at load, and there is room for its parameters and its result.
    // `TypedFunc::call` refuses this on the stack of a guest, since what the host holds here would be
    // sent to another thread if the guest is suspended meanwhile; all of that is `Send`.
    unsafe { realloc.call_unchecked(&mut *guest, &raw mut values[..])? };
    allocated(guest, values[0].get_u32(), align, bytes)
}

/// The same on another stack, for functions of the host that wait.
async fn allocate_later(guest: &mut Guest<'_>, align: u32, bytes: usize) -> Result<u32> {
    let (realloc, size) = (realloc_of(guest)?, u32::try_from(bytes)?);
    let realloc: Realloc = realloc.typed(&*guest)?;
    guest.data_mut().reach.shut = true;
    let place = realloc.call_async(&mut *guest, (0, 0, align, size)).await?;
    allocated(guest, place, align, bytes)
}

fn realloc_of(guest: &mut Guest<'_>) -> Result<Func> {
    match host(guest)?.reach.realloc {
        Some(realloc) => Ok(realloc),
        None => bail!("the module exports no allocator"),
    }
}

/// What was allocated, if it is there.
fn allocated(guest: &mut Guest<'_>, place: u32, align: u32, bytes: usize) -> Result<u32> {
    guest.data_mut().reach.shut = false;
    memory(guest)?.0.range_mut(At::new(place), align, bytes)?;
    Ok(place)
}

/// Puts bytes into space that the guest allocates: where they are.
pub(super) fn give(guest: &mut Guest<'_>, bytes: &[u8]) -> Result<(u32, u32)> {
    let place = allocate(guest, 1, bytes.len())?;
    fill(guest, place, bytes)
}

/// The same, in a function of the host that waits.
pub(super) async fn give_later(guest: &mut Guest<'_>, bytes: &[u8]) -> Result<(u32, u32)> {
    let place = allocate_later(guest, 1, bytes.len()).await?;
    fill(guest, place, bytes)
}

/// Puts a list of rows of `N` lists of bytes into space that the guest allocates.
pub(super) fn give_rows<const N: usize>(
    guest: &mut Guest<'_>,
    rows: &[[&[u8]; N]],
) -> Result<(u32, u32)> {
    // A place and a length for each.
    let mut flat = Vec::with_capacity(rows.len() * N * 8);
    for bytes in rows.iter().flatten() {
        let (place, length) = give(guest, bytes)?;
        flat.extend_from_slice(&place.to_le_bytes());
        flat.extend_from_slice(&length.to_le_bytes());
    }
    let place = allocate(guest, 4, flat.len())?;
    fill(guest, place, &flat)?;
    Ok((place, u32::try_from(rows.len())?))
}

/// Puts a list of numbers into space that the guest allocates, in a function of the host that waits.
pub(super) async fn give_numbers_later(
    guest: &mut Guest<'_>,
    numbers: &[u32],
) -> Result<(u32, u32)> {
    let flat: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let place = allocate_later(guest, 4, flat.len()).await?;
    fill(guest, place, &flat)?;
    Ok((place, u32::try_from(numbers.len())?))
}

fn fill(guest: &mut Guest<'_>, place: u32, bytes: &[u8]) -> Result<(u32, u32)> {
    memory(guest)?.0.range_mut(At::new(place), 1, bytes.len())?.copy_from_slice(bytes);
    Ok((place, u32::try_from(bytes.len())?))
}

/// A guest's memory, for one call of a function of the host.
pub(super) struct View<'a> {
    bytes: &'a mut [u8],
    /// How much more the guest may hand over.
    left: usize,
}

impl<'a> View<'a> {
    /// Bytes that the guest hands over.
    pub(super) fn bytes(&mut self, at: u32, length: u32) -> Result<&[u8]> {
        let Some(left) = self.left.checked_sub(length as usize) else {
            bail!("more than {BYTES_MAX} bytes in one call of a function of the host")
        };
        self.left = left;
        let at = at as usize;
        match self.bytes.get(at..at + length as usize) {
            Some(bytes) => Ok(bytes),
            None => bail!("a list is out of bounds of memory"),
        }
    }

    /// A string that the guest hands over.
    pub(super) fn text(&mut self, at: u32, length: u32) -> Result<String> {
        Ok(std::str::from_utf8(self.bytes(at, length)?)?.to_owned())
    }

    /// A list of which each element is `N` lists of bytes.
    pub(super) fn rows<const N: usize>(
        &mut self,
        at: u32,
        count: u32,
    ) -> Result<Vec<[Vec<u8>; N]>> {
        let Some(length) = count.checked_mul(8 * N as u32) else { bail!("a list is too long") };
        // A place and a length for each.
        let places = self.numbers(at, length / 4)?;
        let mut rows = Vec::with_capacity(count as usize);
        for places in places.chunks_exact(2 * N) {
            let mut row = [const { Vec::new() }; N];
            for (list, place) in row.iter_mut().zip(places.chunks_exact(2)) {
                *list = self.bytes(place[0], place[1])?.to_vec();
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// A list of numbers.
    pub(super) fn numbers(&mut self, at: u32, count: u32) -> Result<Vec<u32>> {
        let Some(length) = count.checked_mul(4) else { bail!("a list is too long") };
        aligned(at.into(), 4)?;
        let (numbers, _) = self.bytes(at, length)?.as_chunks();
        Ok(numbers.iter().map(|number| u32::from_le_bytes(*number)).collect())
    }

    /// Writes a value's bytes.
    pub(super) fn put<const N: usize>(&mut self, at: At, value: [u8; N]) -> Result<()> {
        self.range_mut(at, 1, N)?.copy_from_slice(&value);
        Ok(())
    }

    /// Writes a number at its alignment.
    pub(super) fn put_u32(&mut self, at: At, value: u32) -> Result<()> {
        self.range_mut(at, 4, 4)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// The same, of eight bytes.
    pub(super) fn put_u64(&mut self, at: At, value: u64) -> Result<()> {
        self.range_mut(at, 8, 8)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// Writes a list or a string: where it is and how long.
    pub(super) fn put_list(&mut self, at: At, (place, length): (u32, u32)) -> Result<()> {
        self.put_u32(at, place)?;
        self.put_u32(at + 4, length)
    }

    fn range_mut(&mut self, at: At, align: u32, length: usize) -> Result<&mut [u8]> {
        aligned(at.0, align)?;
        let at = size(at.0);
        match self.bytes.get_mut(at..at.saturating_add(length)) {
            Some(bytes) => Ok(bytes),
            None => bail!("a value is out of bounds of memory"),
        }
    }
}

fn aligned(at: u64, align: u32) -> Result<()> {
    if at.is_multiple_of(align.into()) {
        Ok(())
    } else {
        bail!("a pointer is not aligned to {align}")
    }
}

/// Where `result<own<_>>` goes: which case, then the handle.
pub(super) fn put_handle<T: 'static>(
    guest: &mut Guest<'_>,
    at: At,
    resource: Result<Resource<T>, ()>,
) -> Result<()> {
    let (mut view, _) = memory(guest)?;
    match resource {
        Ok(resource) => {
            view.put_u32(at + 4, handle(&resource))?;
            view.put(at, [0])
        }
        Err(()) => view.put(at, [1]),
    }
}

/// A number that the host uses as a size.
pub(super) fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A trap for what the guest may not do.
pub(super) fn wrong<T>(what: impl Display) -> Result<T> {
    bail!("{what}")
}
