//! Threads that talk through channels and share what is locked; prints nothing that depends on who was first.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use std::thread;
use std::time::Duration;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// Workers take numbers from one channel and give their squares to another.
fn squares() {
    const WORKERS: u64 = 6;
    let (results, collected) = channel();
    let mut inputs = Vec::new();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (input, numbers) = sync_channel::<u64>(2);
            inputs.push(input);
            let results = results.clone();
            thread::spawn(move || {
                for number in numbers {
                    OWN.with(|own| own.set(own.get() + number));
                    results.send((number, number * number)).unwrap();
                }
                OWN.with(Cell::get)
            })
        })
        .collect();
    drop(results);
    for number in 0..240 {
        inputs[(number % WORKERS) as usize].send(number).unwrap();
    }
    drop(inputs);
    let squares: BTreeMap<u64, u64> = collected.iter().collect();
    let sums: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    println!("{} squares, {} in all; {sums:?}", squares.len(), squares.values().sum::<u64>());
}

/// A token goes round a ring of threads.
fn ring() {
    const ROUND: usize = 8;
    let (mut ends, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..ROUND {
        let (start, end) = channel::<u32>();
        starts.push(start);
        ends.push(end);
    }
    let first = starts[0].clone();
    starts.rotate_left(1);
    let passed = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = ends
        .into_iter()
        .zip(starts)
        .map(|(end, next)| {
            let passed = passed.clone();
            thread::spawn(move || {
                while let Ok(left) = end.recv() {
                    passed.fetch_add(1, Ordering::Relaxed);
                    // The last one that passes it on goes, and those that wait for it hear of that.
                    if left == 0 || next.send(left - 1).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    first.send(400).unwrap();
    drop(first);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    println!("{} times passed on", passed.load(Ordering::Relaxed));
}

/// Locks, a barrier and a condition that is waited for with a limit.
fn shared() {
    let (total, log, barrier) = (Mutex::new(0), RwLock::new(Vec::new()), Barrier::new(4));
    thread::scope(|scope| {
        for index in 0..4 {
            let (total, log, barrier) = (&total, &log, &barrier);
            scope.spawn(move || {
                for _ in 0..1000 {
                    *total.lock().unwrap() += index;
                }
                log.write().unwrap().push(index);
                barrier.wait();
                assert_eq!(log.read().unwrap().len(), 4);
            });
        }
    });
    let never = (Mutex::new(()), Condvar::new());
    let waited = never.1.wait_timeout(never.0.lock().unwrap(), Duration::from_millis(5)).unwrap();
    println!("{} in all, timed out: {}", total.into_inner().unwrap(), waited.1.timed_out());
}

/// A thread that panics is told by its join, and unwinds.
fn panics() {
    let guard = Arc::new(Mutex::new(0));
    let held = guard.clone();
    let result = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let _held = held.lock().unwrap();
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    let error = result.unwrap().join().unwrap_err();
    println!("{:?}, poisoned: {}", error.downcast_ref::<&str>(), guard.is_poisoned());
}

fn main() {
    squares();
    ring();
    shared();
    panics();
    if std::env::args().nth(1).is_some() {
        panic!("as was asked for");
    }
    println!("done");
}
