//! KERNEL32's semaphores, which libgcc makes for data of each thread.
//!
//! With one thread nobody gives back what is waited for: a wait for a semaphore that is used up lasts as long as it may.
//! Leaves out names, and all other objects that can be waited for.
//! Sources: Microsoft "CreateSemaphoreW function", "WaitForSingleObject function".

use super::call::{Answer, Call};
use super::kernel_files::{ERROR_INVALID_HANDLE, ERROR_INVALID_PARAMETER, ERROR_NOT_ENOUGH_MEMORY};
use std::time::Duration;

const ERROR_TOO_MANY_POSTS: u32 = 298;
const WAIT_OBJECT_0: u64 = 0;
const WAIT_TIMEOUT: u64 = 0x102;
const WAIT_FAILED: u64 = u32::MAX as u64;
/// Most semaphores.
const SEMAPHORES_MAX: usize = 1 << 16;
/// The handle of the first; files' are below.
pub(super) const FIRST_HANDLE: u64 = 0x1_0000;
/// What a wait takes at most; a program that waits for longer waits again.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(1 << 20);

/// A semaphore.
#[derive(Clone, Copy, Debug)]
pub struct Semaphore {
    count: u32,
    max: u32,
}

/// The time that milliseconds of a call mean.
pub(super) fn time(milliseconds: u64) -> Duration {
    match milliseconds as u32 {
        u32::MAX => WAIT_MAX,
        milliseconds => Duration::from_millis(milliseconds.into()),
    }
}

/// The index of the semaphore of a handle.
fn index(handle: u64) -> Option<usize> {
    let offset = handle.checked_sub(FIRST_HANDLE).filter(|offset| offset % 4 == 0)?;
    usize::try_from(offset / 4).ok()
}

fn find<'a>(call: &'a mut Call, handle: u64) -> Option<&'a mut Semaphore> {
    call.process.semaphores.get_mut(index(handle)?)?.as_mut()
}

pub(super) fn create(call: &mut Call) -> Answer {
    let [_, count, max] = call.arguments()?;
    let (count, max) = (count as u32, max as u32);
    if max == 0 || max > i32::MAX as u32 || count > max {
        return call.refuse(ERROR_INVALID_PARAMETER, 0);
    }
    let semaphores = &mut call.process.semaphores;
    let index = semaphores.iter().position(Option::is_none).unwrap_or(semaphores.len());
    if index == SEMAPHORES_MAX {
        return call.refuse(ERROR_NOT_ENOUGH_MEMORY, 0);
    }
    semaphores.resize(semaphores.len().max(index + 1), None);
    semaphores[index] = Some(Semaphore { count, max });
    call.refuse(0, FIRST_HANDLE + index as u64 * 4)
}

/// Closes the semaphore of a handle; false: it is none.
pub(super) fn close(call: &mut Call, handle: u64) -> bool {
    let slot = index(handle).and_then(|index| call.process.semaphores.get_mut(index));
    slot.and_then(Option::take).is_some()
}

pub(super) fn release(call: &mut Call) -> Answer {
    let [handle, more, before] = call.arguments()?;
    let Some(semaphore) = find(call, handle) else { return call.refuse(ERROR_INVALID_HANDLE, 0) };
    let count = semaphore.count;
    match count.checked_add(more as u32).filter(|sum| *sum <= semaphore.max && more as u32 > 0) {
        Some(sum) => semaphore.count = sum,
        None => return call.refuse(ERROR_TOO_MANY_POSTS, 0),
    }
    call.put_u32(before, count)?;
    Ok(1)
}

pub(super) fn wait(call: &mut Call) -> Answer {
    let [handle, milliseconds] = call.arguments()?;
    match find(call, handle) {
        Some(semaphore) if semaphore.count > 0 => {
            semaphore.count -= 1;
            Ok(WAIT_OBJECT_0)
        }
        Some(_) => {
            call.files.sleep(time(milliseconds));
            Ok(WAIT_TIMEOUT)
        }
        None => call.refuse(ERROR_INVALID_HANDLE, WAIT_FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::*;

    #[test]
    fn a_semaphore_counts_and_a_wait_for_nothing_lasts() {
        let mut desk = Desk::new();
        let handle = create(&mut desk.call([0, 1, 2, 0])).unwrap();
        assert_eq!(wait(&mut desk.call([handle, 5, 0, 0])), Ok(WAIT_OBJECT_0));
        assert_eq!(wait(&mut desk.call([handle, 5, 0, 0])), Ok(WAIT_TIMEOUT));
        assert_eq!(desk.files.slept, Duration::from_millis(5));
        assert_eq!(release(&mut desk.call([handle, 2, Desk::SPACE, 0])), Ok(1));
        assert_eq!(release(&mut desk.call([handle, 1, 0, 0])), Ok(0));
        assert!(close(&mut desk.call([0; 4]), handle) && !close(&mut desk.call([0; 4]), handle));
        for handle in [0, handle, handle + 1, u64::MAX] {
            assert_eq!(wait(&mut desk.call([handle, 0, 0, 0])), Ok(WAIT_FAILED));
        }
        assert_eq!(create(&mut desk.call([0, 3, 2, 0])), Ok(0));
    }
}
