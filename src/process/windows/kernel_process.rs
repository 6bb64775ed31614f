//! KERNEL32's process: command line, environment, modules, time, thread-local slots, locks, and the end.
//!
//! With one thread a lock is never waited for, and its fields are kept as a debugger would expect them. Handlers of exceptions are noted
//! and never called: an exception ends the program.
//! Sources: Microsoft "GetStartupInfoA function", "GetModuleHandleA function", "TlsAlloc function", "InitializeCriticalSection function",
//! "GetSystemTimeAsFileTime function"; winternl.h (fields of the blocks).

use super::call::{Answer, Call, Stop};
use super::functions;
use super::kernel_files::ERROR_INVALID_PARAMETER;
use super::kernel_wait;
use super::layout::{STUBS, THREAD_BLOCK};
use super::paths;
use std::time::{SystemTime, UNIX_EPOCH};

const ERROR_MOD_NOT_FOUND: u32 = 126;
const ERROR_PROC_NOT_FOUND: u32 = 127;
const ERROR_INSUFFICIENT_BUFFER: u32 = 122;
const ERROR_ENVVAR_NOT_FOUND: u32 = 203;
/// Thread-local slots in the thread environment block, and how many.
const SLOTS: u64 = THREAD_BLOCK + 0x1480;
const SLOT_COUNT: u32 = 64;
/// Seconds from 1601, when Windows' time begins, to 1970.
const EPOCH_SECONDS: u64 = 11_644_473_600;
/// Bytes of STARTUPINFOA.
const STARTUP_SIZE: u32 = 104;
/// Handle of the process itself.
const THIS_PROCESS: u64 = u64::MAX;

pub(super) fn terminate(call: &mut Call) -> Answer {
    Err(Stop::Exit(call.registers[1] as u32))
}

pub(super) fn last_error(call: &mut Call) -> Answer {
    Ok(call.last_error()?.into())
}

pub(super) fn set_last_error(call: &mut Call) -> Answer {
    call.refuse(call.registers[0] as u32, 0)
}

pub(super) fn command_line(call: &mut Call) -> Answer {
    Ok(call.process.texts.command_line)
}

pub(super) fn startup_info(call: &mut Call) -> Answer {
    let mut info = [0; STARTUP_SIZE as usize];
    info[..4].copy_from_slice(&STARTUP_SIZE.to_le_bytes());
    call.put(call.registers[0], &info)?;
    Ok(0)
}

/// Copies a text with its end into a buffer, as functions do that tell its length or the room it needs.
fn copy_out(call: &mut Call, text: &[u8], buffer: u64, room: u64) -> Answer {
    let needed = text.len() as u64 + 1;
    if u64::from(room as u32) < needed {
        return Ok(needed);
    }
    call.put(buffer, &[text, b"\0"].concat())?;
    Ok(text.len() as u64)
}

pub(super) fn environment_variable(call: &mut Call) -> Answer {
    let [name, buffer, room] = call.arguments()?;
    let name = call.text(name)?;
    let found = call.process.environment.iter().find(|(key, _)| key.eq_ignore_ascii_case(&name));
    match found.map(|(_, value)| value.clone()) {
        Some(value) => copy_out(call, &value, buffer, room),
        None => call.refuse(ERROR_ENVVAR_NOT_FOUND, 0),
    }
}

pub(super) fn module_handle(call: &mut Call) -> Answer {
    if call.registers[0] == 0 {
        return Ok(call.process.base);
    }
    let name = call.text(call.registers[0])?;
    match functions::library(&String::from_utf8_lossy(&name)) {
        // The stubs stand for all libraries; the number tells them apart.
        Some(index) => Ok(STUBS + index as u64),
        None => call.refuse(ERROR_MOD_NOT_FOUND, 0),
    }
}

pub(super) fn module_file_name(call: &mut Call) -> Answer {
    let [module, buffer, room] = call.arguments()?;
    if module != 0 && module != call.process.base {
        return call.refuse(ERROR_MOD_NOT_FOUND, 0);
    }
    let path = call.text(call.process.texts.path)?;
    let room = room as u32 as usize;
    if room <= path.len() {
        if room > 0 {
            call.put(buffer, &[&path[..room - 1], b"\0"].concat())?;
        }
        return call.refuse(ERROR_INSUFFICIENT_BUFFER, room as u64);
    }
    copy_out(call, &path, buffer, room as u64)
}

pub(super) fn function_address(call: &mut Call) -> Answer {
    let [module, name] = call.arguments()?;
    let name = String::from_utf8(call.text(name)?).unwrap_or_default();
    let index = module.checked_sub(STUBS).and_then(|index| usize::try_from(index).ok());
    let found =
        index.and_then(|index| functions::LIBRARIES.get(index)).and_then(|library| functions::address(library, &name));
    match found {
        Some(address) => Ok(address),
        None => call.refuse(ERROR_PROC_NOT_FOUND, 0),
    }
}

pub(super) fn no_filter_before(_: &mut Call) -> Answer {
    Ok(0)
}

pub(super) fn sleep(call: &mut Call) -> Answer {
    // What the program has written is to be seen while it waits.
    call.process.streams.flush(call.files);
    call.files.sleep(kernel_wait::time(call.registers[0]));
    Ok(0)
}

pub(super) fn ticks(call: &mut Call) -> Answer {
    Ok(call.process.started.elapsed().as_millis() as u64)
}

pub(super) fn counter(call: &mut Call) -> Answer {
    let time = call.process.started.elapsed().as_nanos() as u64;
    call.put(call.registers[0], &time.to_le_bytes())?;
    Ok(1)
}

pub(super) fn counter_frequency(call: &mut Call) -> Answer {
    call.put(call.registers[0], &1_000_000_000u64.to_le_bytes())?;
    Ok(1)
}

pub(super) fn system_time(call: &mut Call) -> Answer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let units = (now.as_secs() + EPOCH_SECONDS) * 10_000_000 + u64::from(now.subsec_nanos() / 100);
    call.put(call.registers[0], &units.to_le_bytes())?;
    Ok(0)
}

pub(super) fn this_process(_: &mut Call) -> Answer {
    Ok(THIS_PROCESS)
}

pub(super) fn identifier(_: &mut Call) -> Answer {
    Ok(super::blocks::PROCESS_ID)
}

pub(super) fn thread_identifier(_: &mut Call) -> Answer {
    Ok(super::blocks::THREAD_ID)
}

/// The address of a thread-local slot that is taken.
fn slot(call: &Call, index: u64) -> Option<u64> {
    let index = index as u32;
    (index < SLOT_COUNT && call.process.slots >> index & 1 == 1).then(|| SLOTS + u64::from(index) * 8)
}

pub(super) fn take_slot(call: &mut Call) -> Answer {
    let index = call.process.slots.trailing_ones();
    if index == SLOT_COUNT {
        return call.refuse(super::kernel_files::ERROR_NOT_ENOUGH_MEMORY, u32::MAX.into());
    }
    call.process.slots |= 1 << index;
    call.put(SLOTS + u64::from(index) * 8, &[0; 8])?;
    Ok(index.into())
}

pub(super) fn free_slot(call: &mut Call) -> Answer {
    let index = call.registers[0];
    if slot(call, index).is_none() {
        return call.refuse(ERROR_INVALID_PARAMETER, 0);
    }
    // A DWORD, as in `slot`: what the register has above it is the program's business.
    call.process.slots &= !(1 << (index as u32));
    Ok(1)
}

pub(super) fn slot_value(call: &mut Call) -> Answer {
    match slot(call, call.registers[0]) {
        Some(address) => {
            let value = call.memory.u64(address)?;
            call.refuse(0, value)
        }
        None => call.refuse(ERROR_INVALID_PARAMETER, 0),
    }
}

pub(super) fn set_slot(call: &mut Call) -> Answer {
    let [index, value] = call.arguments()?;
    match slot(call, index) {
        Some(address) => {
            call.put(address, &value.to_le_bytes())?;
            Ok(1)
        }
        None => call.refuse(ERROR_INVALID_PARAMETER, 0),
    }
}

/// Fields of a CRITICAL_SECTION: LockCount, RecursionCount, OwningThread.
fn put_section(call: &mut Call, locks: i32, entered: u32, owner: u64) -> Answer {
    let at = call.registers[0].wrapping_add(8);
    call.put(at, &[&locks.to_le_bytes()[..], &entered.to_le_bytes(), &owner.to_le_bytes()].concat())?;
    Ok(0)
}

pub(super) fn make_section(call: &mut Call) -> Answer {
    // DebugInfo, the rest, and LockSemaphore and SpinCount behind it.
    call.put(call.registers[0], &[0; 40])?;
    put_section(call, -1, 0, 0)
}

pub(super) fn enter_section(call: &mut Call) -> Answer {
    let entered = call.memory.u32(call.registers[0].wrapping_add(12))?.saturating_add(1);
    put_section(call, -2, entered, super::blocks::THREAD_ID)
}

pub(super) fn leave_section(call: &mut Call) -> Answer {
    match call.memory.u32(call.registers[0].wrapping_add(12))?.saturating_sub(1) {
        0 => put_section(call, -1, 0, 0),
        entered => put_section(call, -2, entered, super::blocks::THREAD_ID),
    }
}

/// The path of the program, as it is told to itself.
pub(super) fn own_path(path: &[u8]) -> Vec<u8> {
    paths::to_windows(path)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::super::user::Memory;
    use super::*;

    #[test]
    fn slots_are_taken_kept_and_given_back() {
        let mut desk = Desk::new();
        let taken: Vec<_> = (0..65).map(|_| take_slot(&mut desk.call([0; 4])).unwrap() as u32).collect();
        assert_eq!((taken[0], taken[63], taken[64]), (0, 63, u32::MAX));
        assert_eq!(set_slot(&mut desk.call([63, 7, 0, 0])), Ok(1));
        assert_eq!(slot_value(&mut desk.call([63, 0, 0, 0])), Ok(7));
        assert_eq!(
            free_slot(&mut desk.call([63 | 1 << 40, 0, 0, 0])),
            Ok(1),
            "a DWORD: what stands above it is not looked at"
        );
        for index in [63, 64, u64::MAX] {
            assert_eq!(set_slot(&mut desk.call([index, 7, 0, 0])), Ok(0), "{index}");
        }
    }

    #[test]
    fn a_section_counts_how_often_it_was_entered() {
        let mut desk = Desk::new();
        let section = [Desk::SPACE, 0, 0, 0];
        make_section(&mut desk.call(section)).unwrap();
        let fresh = desk.memory.text_at(Desk::SPACE, 40);
        enter_section(&mut desk.call(section)).unwrap();
        enter_section(&mut desk.call(section)).unwrap();
        assert_eq!(desk.call([0; 4]).memory.u32(Desk::SPACE + 12), Ok(2));
        leave_section(&mut desk.call(section)).unwrap();
        leave_section(&mut desk.call(section)).unwrap();
        assert_eq!(desk.memory.text_at(Desk::SPACE, 40), fresh);
        assert!(matches!(enter_section(&mut desk.call([8, 0, 0, 0])), Err(Stop::Fault(_))));
    }

    #[test]
    fn variables_are_found_in_any_case_and_measured() {
        let mut desk = Desk::new();
        desk.process.environment = vec![(b"Path".to_vec(), b"C:\\".to_vec())];
        let name = desk.text(0, "PATH");
        let out = Desk::SPACE + 100;
        assert_eq!(environment_variable(&mut desk.call([name, out, 3, 0])), Ok(4));
        assert_eq!(environment_variable(&mut desk.call([name, out, 4, 0])), Ok(3));
        assert_eq!(desk.memory.text_at(out, 4), b"C:\\\0");
        let other = desk.text(0, "NONE");
        assert_eq!(environment_variable(&mut desk.call([other, out, 4, 0])), Ok(0));
        assert_eq!(desk.call([0; 4]).last_error(), Ok(ERROR_ENVVAR_NOT_FOUND));
    }

    #[test]
    fn functions_are_found_by_library_and_name() {
        let mut desk = Desk::new();
        let library = desk.text(0, "KERNEL32.DLL");
        let module = module_handle(&mut desk.call([library, 0, 0, 0])).unwrap();
        let name = desk.text(100, "WriteFile");
        let address = function_address(&mut desk.call([module, name, 0, 0])).unwrap();
        assert_eq!(Some(address), functions::address("kernel32", "WriteFile"));
        let none = desk.text(100, "CreateWindowExA");
        for arguments in [[module, none, 0, 0], [0, name, 0, 0], [u64::MAX, name, 0, 0]] {
            assert_eq!(function_address(&mut desk.call(arguments)), Ok(0));
        }
        desk.memory.write(library, b"USER32").unwrap();
        assert_eq!(module_handle(&mut desk.call([library, 0, 0, 0])), Ok(0));
    }
}
