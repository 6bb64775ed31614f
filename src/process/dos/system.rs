//! The other functions: the end, vectors, date and time, version, memory.
//!
//! Time is UTC. The version is 5.0, the last that most programs knew.
//! Source: Interrupt List, INT 21h functions 00h, 19h, 25h, 2Ah, 2Ch, 30h, 35h, 48h to 4Ah, 4Ch and 62h.

use super::call::{Answer, Call, Stop};
use super::memory::Far;
use super::program::{PSP, pointer, vector};
use crate::devices::rtc::Time;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const VERSION_MAJOR: u16 = 5;
const VERSION_MINOR: u16 = 0;
/// Drive C:, where A: is 0.
const DRIVE: u8 = 2;

pub(super) fn end(_: &mut Call) -> Answer {
    Err(Stop::Exit(0))
}

pub(super) fn exit(call: &mut Call) -> Answer {
    let [_, status] = call.regs.a();
    Err(Stop::Exit(status))
}

pub(super) fn drive(call: &mut Call) -> Answer {
    call.regs.set_al(DRIVE);
    Ok(())
}

pub(super) fn set_vector(call: &mut Call) -> Answer {
    let [_, number] = call.regs.a();
    call.memory.write(vector(number), &pointer(call.regs.buffer()));
    Ok(())
}

pub(super) fn get_vector(call: &mut Call) -> Answer {
    let [_, number] = call.regs.a();
    let at = vector(number);
    call.regs.bx = call.memory.word(at);
    call.regs.es = call.memory.word(Far { offset: at.offset + 2, ..at });
    Ok(())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn date(call: &mut Call) -> Answer {
    let time = Time::at(now().as_secs());
    call.regs.set_al(time.weekday - 1);
    call.regs.cx = time.year as u16;
    call.regs.dx = u16::from_be_bytes([time.month, time.day]);
    Ok(())
}

pub(super) fn time(call: &mut Call) -> Answer {
    let now = now();
    let time = Time::at(now.as_secs());
    call.regs.cx = u16::from_be_bytes([time.hour, time.minute]);
    call.regs.dx = u16::from_be_bytes([time.second, (now.subsec_millis() / 10) as u8]);
    Ok(())
}

pub(super) fn version(call: &mut Call) -> Answer {
    call.regs.ax = VERSION_MINOR << 8 | VERSION_MAJOR;
    (call.regs.bx, call.regs.cx) = (0, 0);
    Ok(())
}

pub(super) fn allocate(call: &mut Call) -> Answer {
    let block = call.blocks.allocate(call.regs.bx);
    call.regs.ax = call.block(block)?;
    Ok(())
}

pub(super) fn free(call: &mut Call) -> Answer {
    let freed = call.blocks.free(call.regs.es);
    call.block(freed)
}

pub(super) fn resize(call: &mut Call) -> Answer {
    let resized = call.blocks.resize(call.regs.es, call.regs.bx);
    call.block(resized)
}

pub(super) fn prefix(call: &mut Call) -> Answer {
    call.regs.bx = PSP;
    Ok(())
}
