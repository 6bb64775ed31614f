//! Memory that is taken once and never given back: the tables of the server have a fixed size.

use core::mem::MaybeUninit;
use core::slice;

use process::call;

/// `count` values that `make` makes, for good. `None`: the kernel has no memory left.
pub fn slice<T>(count: usize, make: impl Fn() -> T) -> Option<&'static mut [T]> {
    let bytes = count.checked_mul(size_of::<T>())?;
    // Pages are aligned for everything that stands in them.
    let start = call::map(bytes as u64).ok()?.cast::<MaybeUninit<T>>();
    // SAFETY: so much memory, mapped for us alone and never unmapped; `MaybeUninit` may hold anything.
    let room = unsafe { slice::from_raw_parts_mut(start, count) };
    for slot in room.iter_mut() {
        slot.write(make());
    }
    // SAFETY: each has been written; the two types have one layout.
    Some(unsafe { slice::from_raw_parts_mut(start.cast::<T>(), count) })
}

/// One value, for good.
pub fn one<T>(value: T) -> Option<&'static mut T> {
    let place = call::map(size_of::<T>() as u64).ok()?.cast::<MaybeUninit<T>>();
    // SAFETY: so much memory, aligned, mapped for us alone and never unmapped.
    Some(unsafe { &mut *place }.write(value))
}

/// So many bytes of zeroes, for good; they get memory when they are touched first.
pub fn bytes(count: usize) -> Option<&'static mut [u8]> {
    let start = call::map(count as u64).ok()?;
    // SAFETY: so much memory, mapped for us alone, of zeroes, and never unmapped.
    Some(unsafe { slice::from_raw_parts_mut(start, count) })
}
