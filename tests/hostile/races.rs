//! What a hostile driver does while the device works: resets, indices that run away, words that change between two looks.

use crate::devices::{ROWS, Row};
use crate::{answers, on_each, rig, works};
use hostel::memory::ram::GuestRam;
use hostel::virtio::rig::{BOTH, ENTRIES, RAM, READABLE, RINGS, RINGS_STEP, Rig, WRITABLE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long words are flipped under each device: a moment each day, or what the user says.
fn flipping() -> Duration {
    let seconds = std::env::var("HOSTEL_HOSTILE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(Duration::from_millis(300), Duration::from_secs)
}

#[test]
fn a_reset_in_the_middle_of_requests_ends_them() {
    on_each(|row, rig| {
        let good = (row.good)();
        for round in 0..100 {
            rig.drive(if round % 2 == 0 { u64::MAX } else { !(1 << 29) });
            rig.ram.write(READABLE, &good.readable).unwrap();
            for _ in 0..6 {
                let readable = [(READABLE, good.readable.len() as u32)];
                rig.queues[good.queue]
                    .send(&readable[..usize::from(!good.readable.is_empty())], &[(WRITABLE, good.writable.max(1))]);
                rig.kick(good.queue as u16);
                if round % 3 != 0 {
                    rig.turn(Duration::ZERO);
                }
            }
            rig.set_status(0);
            let written = vec![0x3c; (RAM - RINGS) as usize];
            rig.ram.write(RINGS, &written).unwrap();
            rig.turn(Duration::from_millis(u64::from(round % 20 == 0)));
            let mut now = vec![0; written.len()];
            rig.ram.read(RINGS, &mut now).unwrap();
            assert!(now == written, "{}: written to after the reset", row.name);
        }
        rig.drive(u64::MAX);
        assert!(answers(row, rig), "{}", row.name);
    });
}

/// Runs `work` while `disturb` runs in a second thread, which is handed a number that is another each time.
fn beside(rig: &mut Rig, disturb: impl Fn(&GuestRam, u64) + Send + Sync, work: impl FnOnce(&mut Rig)) {
    let (ram, over): (Arc<GuestRam>, _) = (rig.ram.clone(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // xorshift64 (Marsaglia 2003): any sequence will do.
            let mut number = 0x9e37_79b9_7f4a_7c15_u64;
            while !over.load(Ordering::Relaxed) {
                number ^= number << 13;
                number ^= number >> 7;
                number ^= number << 17;
                disturb(&ram, number);
            }
        });
        // The thread ends also where the work panics, or the scope would wait for it.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(rig)));
        over.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn sec06_sec13_an_index_that_runs_away_does_not_keep_the_device() {
    for row in ROWS {
        for index in 0..rig(row, BOTH[0]).queues.len() {
            let mut rig = rig(row, BOTH[0]);
            rig.drive(u64::MAX);
            let available = rig.queues[index].setup().available;
            let bump = move |ram: &GuestRam, number: u64| {
                let mut at = [0; 2];
                ram.read(available + 2, &mut at).unwrap();
                let next = u16::from_le_bytes(at).wrapping_add((number % 3) as u16);
                ram.write(available + 2, &next.to_le_bytes()).unwrap();
            };
            beside(&mut rig, bump, |rig| {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(30) {
                    rig.kick(index as u16);
                    let turn = Instant::now();
                    rig.turn(Duration::ZERO);
                    assert!(turn.elapsed() < Duration::from_secs(5), "{}, queue {index}", row.name);
                    if rig.needs_reset() {
                        rig.drive(u64::MAX);
                    }
                }
            });
            rig.drive(u64::MAX);
            assert!(answers(row, &mut rig), "{}, queue {index}", row.name);
        }
    }
}

/// Which words are flipped: those of the request, or of the rings too.
#[derive(Clone, Copy, Debug)]
enum Words {
    Request,
    Rings,
}

fn flip(row: &Row, words: Words) {
    let mut rig = rig(row, BOTH[1]);
    rig.drive(u64::MAX);
    let queue = (row.good)().queue as u64;
    let flips = move |ram: &GuestRam, number: u64| {
        let at = match words {
            Words::Rings if number & 1 == 0 => RINGS + queue * RINGS_STEP + number / 2 % (26 * u64::from(ENTRIES)),
            _ => READABLE + number / 2 % 64,
        };
        ram.write(at, &[(number >> 40) as u8]).unwrap();
    };
    beside(&mut rig, flips, |rig| {
        let (start, good) = (Instant::now(), (row.good)());
        let mut requests = 0;
        while start.elapsed() < flipping() || requests < 10 {
            let readable = [(READABLE, good.readable.len() as u32)];
            let sent = &readable[..usize::from(!good.readable.is_empty())];
            rig.queues[good.queue].send(sent, &[(WRITABLE, good.writable.max(16))]);
            rig.kick(good.queue as u16);
            (0..4).for_each(|_| _ = rig.turn(Duration::from_micros(50)));
            requests += 1;
            // Rings that were written over may say anything, also that there is nothing.
            if rig.needs_reset() || requests % 8 == 0 {
                rig.drive(u64::MAX);
            }
        }
        println!("{}, {words:?}: {requests} requests", row.name);
    });
    if matches!(words, Words::Rings) {
        // They may have told the device of the next request before it was there, and then have nothing new to tell.
        rig.drive(u64::MAX);
    }
    works(row, &mut rig, "flipped words");
}

#[test]
fn sec44_flips_of_a_requests_words_are_seen_once() {
    ROWS.iter().for_each(|row| flip(row, Words::Request));
}

#[test]
fn sec44_flips_of_the_rings_words_end_in_a_reset_at_worst() {
    ROWS.iter().for_each(|row| flip(row, Words::Rings));
}
