//! CMOS real-time clock and memory, behind an index and a data port.
//!
//! Models the MC146818A's clock (binary or BCD, 24 or 12 hours) with the PC's century byte at 0x32, and 128 bytes. The
//! time is the host's, in UTC: what a guest writes to the time registers is ignored, and an update never shows (UIP is 0),
//! because each read is exact. Left out: alarm, periodic and update interrupts; their enable bits read as zero, register C
//! too, and the DSDT gives the clock no interrupt. Source: Motorola MC146818A data sheet, "Address Map", "Registers".

use crate::bus::device::{BusDevice, DeviceState, Lifecycle, StateError, read_by_bytes, write_by_bytes};
use crate::bus::state::StateReader;

/// Seconds since 1970-01-01 00:00 UTC, now.
pub type Clock = Box<dyn Fn() -> u64 + Send>;

/// Index and data port.
pub const PORTS: u16 = 2;
/// Bytes of the chip: registers and memory.
const CELLS: usize = 128;
/// Bits of the index port that select a cell; bit 7 masks NMIs on a PC.
const INDEX: u8 = 0x7f;

const SECONDS: usize = 0x0;
const MINUTES: usize = 0x2;
const HOURS: usize = 0x4;
const WEEKDAY: usize = 0x6;
const DAY: usize = 0x7;
const MONTH: usize = 0x8;
const YEAR: usize = 0x9;
const REGISTER_A: usize = 0xa;
const REGISTER_B: usize = 0xb;
const REGISTER_C: usize = 0xc;
const REGISTER_D: usize = 0xd;
/// Century, by the FADT's CENTURY.
pub const CENTURY: usize = 0x32;

/// Register A: divider for 32768 Hz, rate 1024 Hz: what a PC's firmware sets.
const A_FIRMWARE: u8 = 0x26;
/// Register A: update in progress, read only.
const A_UIP: u8 = 1 << 7;
/// Register B: hours count to 24.
const B_24_HOURS: u8 = 1 << 1;
/// Register B: binary, not BCD.
const B_BINARY: u8 = 1 << 2;
/// Register B: enables of the three interrupts.
const B_INTERRUPTS: u8 = 0x70;
/// Register D: memory and time are valid.
const D_VALID: u8 = 1 << 7;
/// Hours in 12-hour mode: afternoon.
const PM: u8 = 1 << 7;

/// Kind of the saved state.
const KIND: &str = "mc146818/1";

/// The clock.
pub struct Rtc {
    clock: Clock,
    index: u8,
    /// Memory, and registers A and B; the time's cells are not used.
    cells: [u8; CELLS],
}

/// Memory after reset: 24 hours, BCD.
fn power_on() -> [u8; CELLS] {
    let mut cells = [0; CELLS];
    cells[REGISTER_A] = A_FIRMWARE;
    cells[REGISTER_B] = B_24_HOURS;
    cells
}

impl Rtc {
    /// A clock that shows the time of `clock`.
    pub fn new(clock: Clock) -> Rtc {
        Rtc { clock, index: 0, cells: power_on() }
    }

    fn read_cell(&self) -> u8 {
        let cell = usize::from(self.index);
        match cell {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.encode(cell, Time::at((self.clock)()).field(cell))
            }
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            _ => self.cells[cell],
        }
    }

    fn write_cell(&mut self, value: u8) {
        let cell = usize::from(self.index);
        match cell {
            REGISTER_A => self.cells[cell] = value & !A_UIP,
            REGISTER_B => self.cells[cell] = value & !B_INTERRUPTS,
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY | REGISTER_C | REGISTER_D => {}
            _ => self.cells[cell] = value,
        }
    }

    /// A number of the time as register B wants it.
    fn encode(&self, cell: usize, value: u8) -> u8 {
        let mode = self.cells[REGISTER_B];
        let (value, mark) = match (cell, mode & B_24_HOURS) {
            (HOURS, 0) => ((value + 11) % 12 + 1, if value >= 12 { PM } else { 0 }),
            _ => (value, 0),
        };
        mark | if mode & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }
}

/// A time of the Gregorian calendar, UTC.
#[derive(Debug, PartialEq, Eq)]
pub struct Time {
    /// Of the era.
    pub year: u64,
    /// 1 is January.
    pub month: u8,
    /// From 1 on.
    pub day: u8,
    /// 1 is Sunday.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl Time {
    /// The time so many seconds after 1970-01-01 00:00. By H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    /// civil_from_days: years begin in March, so that the leap day is the last.
    pub fn at(seconds: u64) -> Time {
        let (days, second) = (seconds / 86400, (seconds % 86400) as u32);
        let since_0000_03_01 = days + 719_468;
        let (era, day_of_era) = (since_0000_03_01 / 146_097, since_0000_03_01 % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Time {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            weekday: ((days + 4) % 7 + 1) as u8,
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: (second % 60) as u8,
        }
    }

    fn field(&self, cell: usize) -> u8 {
        match cell {
            SECONDS => self.second,
            MINUTES => self.minute,
            HOURS => self.hour,
            WEEKDAY => self.weekday,
            DAY => self.day,
            MONTH => self.month,
            YEAR => (self.year % 100) as u8,
            _ => (self.year / 100 % 100) as u8,
        }
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        read_by_bytes(offset, size, |offset| if offset == 1 { self.read_cell() } else { 0xff })
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        write_by_bytes(offset, size, value, |offset, byte| match offset {
            0 => self.index = byte & INDEX,
            1 => self.write_cell(byte),
            _ => {}
        });
    }

    fn register_name(&self, offset: u64, _write: bool) -> &'static str {
        match (offset, usize::from(self.index)) {
            (0, _) => "INDEX",
            (1, SECONDS) => "SECONDS",
            (1, MINUTES) => "MINUTES",
            (1, HOURS) => "HOURS",
            (1, WEEKDAY) => "WEEKDAY",
            (1, DAY) => "DAY",
            (1, MONTH) => "MONTH",
            (1, YEAR) => "YEAR",
            (1, CENTURY) => "CENTURY",
            (1, REGISTER_A) => "A",
            (1, REGISTER_B) => "B",
            (1, REGISTER_C) => "C",
            (1, REGISTER_D) => "D",
            (1, _) => "RAM",
            _ => "",
        }
    }
}

impl Lifecycle for Rtc {
    fn reset(&mut self) {
        let Rtc { clock: _, index, cells } = self;
        *index = 0;
        *cells = power_on();
    }

    fn save(&self) -> DeviceState {
        DeviceState { kind: KIND, bytes: [&[self.index], &self.cells[..]].concat() }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        let mut reader = StateReader::open(state, KIND)?;
        let (index, cells) = (reader.u8()?, reader.array()?);
        if index & !INDEX != 0 {
            return Err(reader.refuse("the index is beyond the memory"));
        }
        reader.end()?;
        (self.index, self.cells) = (index, cells);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29 23:05:09, a Thursday.
    const LEAP_DAY: u64 = 1_709_247_909;

    fn at(seconds: u64) -> Rtc {
        Rtc::new(Box::new(move || seconds))
    }

    fn read(rtc: &mut Rtc, cell: usize) -> u8 {
        rtc.write(0, 1, cell as u64);
        rtc.read(1, 1) as u8
    }

    fn write(rtc: &mut Rtc, cell: usize, value: u8) {
        rtc.write(0, 2, (cell as u64) | u64::from(value) << 8);
    }

    crate::devices::conformance::conformance!(at(LEAP_DAY), PORTS.into());

    #[test]
    fn the_time_is_shown_as_register_b_says() {
        let mut rtc = at(LEAP_DAY);
        let cells = [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS];
        let mut show = |mode| {
            write(&mut rtc, REGISTER_B, mode);
            cells.map(|cell| read(&mut rtc, cell))
        };
        assert_eq!(show(B_24_HOURS), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x05, 0x09]);
        assert_eq!(show(B_24_HOURS | B_BINARY), [20, 24, 2, 29, 5, 23, 5, 9]);
        assert_eq!(show(B_BINARY)[5], PM | 11);
        assert_eq!(show(0)[5], PM | 0x11);
    }

    #[test]
    fn twelve_is_the_first_hour_of_both_halves() {
        for (hour, shown) in [(0, 12), (1, 1), (11, 11), (12, PM | 12), (13, PM | 1)] {
            let mut rtc = at(hour * 3600);
            write(&mut rtc, REGISTER_B, B_BINARY);
            assert_eq!(read(&mut rtc, HOURS), shown);
        }
    }

    #[test]
    fn dates_at_the_edges_of_the_calendar() {
        let date = |seconds| {
            let time = Time::at(seconds);
            (time.year, time.month, time.day, time.weekday)
        };
        assert_eq!(date(0), (1970, 1, 1, 5));
        assert_eq!(date(951_782_400), (2000, 2, 29, 3));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 2), "2100 has no leap day");
        assert_eq!(date(253_402_300_799), (9999, 12, 31, 6));
        Time::at(u64::MAX);
    }

    #[test]
    fn memory_is_kept_and_the_time_is_not_set() {
        let mut rtc = at(LEAP_DAY);
        write(&mut rtc, 0x0f, 0x05);
        write(&mut rtc, YEAR, 0x99);
        write(&mut rtc, REGISTER_B, 0xff);
        assert_eq!(read(&mut rtc, 0x0f), 0x05);
        assert_eq!(read(&mut rtc, YEAR), 24);
        assert_eq!([REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D].map(|r| read(&mut rtc, r)), [0x26, 0x8f, 0, 0x80]);
    }
}
