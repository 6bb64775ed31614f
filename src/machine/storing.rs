//! A kernel that was unpacked goes into the cache: beside the guest, once that has had its start for itself, or when it has ended.
//!
//! Hashing and writing take a processor for tens of milliseconds, where KVM is nested for seconds. A host with few processors
//! would take them from the booting guest, so the thread waits first, and yields then. A run that is over before gives it a
//! moment: tests of kernels are short, and without it none of them would ever find its kernel unpacked.

use super::console::say;
use crate::backend::kernel_cache::StoreJob;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// How long a guest has the processors for its start.
const START: Duration = Duration::from_secs(10);
/// How long an ended run waits for its kernel to be cached.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much the thread yields to the vCPUs.
const NICE: i32 = 19;

/// A kernel on its way into the cache.
pub struct Storing {
    /// Dropped when the guest has ended.
    runs: Sender<()>,
    /// Closed when the kernel is stored, or cannot be.
    done: Receiver<()>,
}

impl Storing {
    /// Starts the thread, after the first entry. Without one the kernel is unpacked again next time.
    pub fn start(job: StoreJob) -> Storing {
        let ((runs, ended), (stores, done)) = (channel(), channel());
        let store = move || {
            let _stores = stores;
            let _ = rustix::process::nice(NICE);
            let _ = ended.recv_timeout(START);
            if let Err(error) = job.run() {
                say(&format!("{error}; the next start will unpack it again"));
            }
        };
        let _ = thread::Builder::new().name("kernel cache".into()).spawn(store);
        Storing { runs, done }
    }

    /// The guest has ended in good order: gives the thread what time it needs, within reason. The end of the process cuts it short.
    pub fn finish(self) {
        drop(self.runs);
        let _ = self.done.recv_timeout(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernel_cache::{FileKey, KernelCache, Piece};
    use std::fs::File;
    use std::time::Instant;

    #[test]
    fn the_kernel_of_a_short_run_is_stored_when_it_ends() {
        let directory = std::env::temp_dir().join(format!("hostel-storing-{}", std::process::id()));
        let cache = KernelCache::at(directory.clone());
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("image"), b"image").unwrap();
        thread::sleep(Duration::from_millis(100)); // a file's times must have settled
        let key = FileKey::of(&File::open(directory.join("image")).unwrap()).unwrap().unwrap();
        let pieces = vec![Piece { from: 0..6, at: 0 }];
        let (kernel, headers) = (b"kernel".to_vec(), Vec::new());
        let job = StoreJob { cache: cache.clone(), key: key.clone(), kernel, pieces, size: 6, headers };
        let start = Instant::now();
        let storing = Storing::start(job);
        thread::sleep(Duration::from_millis(50));
        assert!(cache.find(&key).is_none(), "the guest has its start for itself");
        storing.finish();
        assert!(cache.find(&key).is_some_and(|kernel| kernel.size == 6));
        assert!(start.elapsed() < START);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
