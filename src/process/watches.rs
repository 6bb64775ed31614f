//! What an epoll file watches.
//!
//! Linux tells what is watched by the open file and its number in one. The host's epoll file, which does the
//! watching, sees Hostel's descriptors: one for each open file of a program, however many numbers that has. So each further number that
//! one epoll file is to watch a file by gets a descriptor of its own, an alias. Aliases belong to the watched file: when that is closed for
//! good nothing may hold it open, and the host forgets what was watched, as Linux does.
//! Sources: epoll(7), epoll_ctl(2).

use super::files::OpenFile;
use crate::bus::bus::lock;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

/// Most entries of an epoll file; Linux has such a bound for each user.
const WATCHES_MAX: usize = 4096;

/// An entry.
struct Watch {
    number: i32,
    file: Weak<OpenFile>,
    /// What the host knows it by, if not by the file's own descriptor.
    alias: Option<Weak<OwnedFd>>,
}

impl Watch {
    fn is_of(&self, file: &Arc<OpenFile>) -> bool {
        std::ptr::eq(self.file.as_ptr(), Arc::as_ptr(file))
    }

    fn alias(&self) -> Option<Arc<OwnedFd>> {
        self.alias.as_ref().and_then(Weak::upgrade)
    }
}

/// The entries of an epoll file; any other file has none.
#[derive(Default)]
pub struct Watches(Mutex<Vec<Watch>>);

/// What is waited for, and what is told then.
pub type Wanted = (EventFlags, EventData);

/// EPOLL_CTL_ADD.
///
/// # Errors
/// EEXIST, ENOSPC, and what the host says.
pub fn add(epoll: &OpenFile, number: i32, file: &Arc<OpenFile>, (flags, data): Wanted) -> Result<(), Errno> {
    let mut watches = lock(&epoll.watches.0);
    watches.retain(|watch| watch.file.strong_count() > 0);
    if position(&watches, number, file).is_some() {
        return Err(Errno::EXIST);
    }
    if watches.len() == WATCHES_MAX {
        return Err(Errno::NOSPC);
    }
    let alias = if watches.iter().any(|watch| watch.is_of(file) && watch.alias.is_none()) {
        let alias = file.add_alias()?;
        epoll::add(epoll.fd(), alias.as_fd(), data, flags).inspect_err(|_| file.drop_alias(&alias))?;
        Some(Arc::downgrade(&alias))
    } else {
        epoll::add(epoll.fd(), file.fd(), data, flags)?;
        None
    };
    watches.push(Watch { number, file: Arc::downgrade(file), alias });
    Ok(())
}

/// EPOLL_CTL_MOD.
///
/// # Errors
/// ENOENT, and what the host says.
pub fn modify(epoll: &OpenFile, number: i32, file: &Arc<OpenFile>, (flags, data): Wanted) -> Result<(), Errno> {
    let watches = lock(&epoll.watches.0);
    let Some(index) = position(&watches, number, file) else { return Err(absent(&watches, epoll, file)) };
    match watches[index].alias() {
        Some(alias) => epoll::modify(epoll.fd(), alias.as_fd(), data, flags),
        None => epoll::modify(epoll.fd(), file.fd(), data, flags),
    }
}

/// EPOLL_CTL_DEL.
///
/// # Errors
/// ENOENT, and what the host says.
pub fn delete(epoll: &OpenFile, number: i32, file: &Arc<OpenFile>) -> Result<(), Errno> {
    let mut watches = lock(&epoll.watches.0);
    let Some(index) = position(&watches, number, file) else { return Err(absent(&watches, epoll, file)) };
    match watches.swap_remove(index).alias() {
        Some(alias) => {
            file.drop_alias(&alias);
            epoll::delete(epoll.fd(), alias.as_fd())
        }
        None => epoll::delete(epoll.fd(), file.fd()),
    }
}

fn position(watches: &[Watch], number: i32, file: &Arc<OpenFile>) -> Option<usize> {
    watches.iter().position(|watch| watch.number == number && watch.is_of(file))
}

/// Why a file is not found: ENOENT, unless the host says that it cannot be watched at all, or that what is asked is no epoll file.
fn absent(watches: &[Watch], epoll: &OpenFile, file: &Arc<OpenFile>) -> Errno {
    if watches.iter().any(|watch| watch.is_of(file)) {
        return Errno::NOENT;
    }
    epoll::delete(epoll.fd(), file.fd()).err().unwrap_or(Errno::NOENT)
}

impl Drop for Watches {
    fn drop(&mut self) {
        for watch in lock(&self.0).drain(..) {
            if let (Some(file), Some(alias)) = (watch.file.upgrade(), watch.alias()) {
                file.drop_alias(&alias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::epoll::{CreateFlags, Event};
    use rustix::event::{EventfdFlags, Timespec, eventfd};

    fn ready(epoll: &OpenFile) -> Vec<u64> {
        let mut events = Vec::with_capacity(16);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(epoll.fd(), rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap();
        let mut data: Vec<u64> = events.iter().map(|event: &Event| event.data.u64()).collect();
        data.sort_unstable();
        data
    }

    #[test]
    fn a_file_is_watched_by_each_of_its_numbers_as_long_as_it_is_open() {
        let epoll = OpenFile::new(epoll::create(CreateFlags::CLOEXEC).unwrap(), false);
        let file = OpenFile::new(eventfd(1, EventfdFlags::CLOEXEC).unwrap(), false);
        let wanted = |data: u64| (EventFlags::IN, EventData::new_u64(data));
        assert_eq!(add(&epoll, 5, &file, wanted(50)), Ok(()));
        assert_eq!(add(&epoll, 5, &file, wanted(51)), Err(Errno::EXIST));
        assert_eq!(
            (delete(&epoll, 6, &file), modify(&epoll, 6, &file, wanted(0))),
            (Err(Errno::NOENT), Err(Errno::NOENT))
        );
        assert_eq!(add(&epoll, 6, &file, wanted(60)), Ok(()));
        assert_eq!(ready(&epoll), [50, 60]);
        assert_eq!(modify(&epoll, 6, &file, wanted(61)), Ok(()));
        assert_eq!(delete(&epoll, 5, &file), Ok(()));
        assert_eq!(ready(&epoll), [61]);
        assert_eq!(add(&epoll, 7, &file, wanted(70)), Ok(()));
        assert_eq!((delete(&epoll, 6, &file), ready(&epoll)), (Ok(()), vec![70]));
        assert_eq!(add(&epoll, 8, &file, wanted(80)), Ok(()));
        drop(file);
        assert_eq!(ready(&epoll), [0; 0], "no alias holds it open");
        let other = OpenFile::new(eventfd(1, EventfdFlags::CLOEXEC).unwrap(), false);
        assert_eq!(add(&epoll, 7, &other, wanted(71)), Ok(()), "the number is another file's now");
        assert_eq!(ready(&epoll), [71]);
    }

    #[test]
    fn aliases_go_with_the_epoll_file_and_errors_are_the_hosts() {
        let file = OpenFile::new(eventfd(1, EventfdFlags::CLOEXEC).unwrap(), false);
        let epoll = OpenFile::new(epoll::create(CreateFlags::CLOEXEC).unwrap(), false);
        let wanted = (EventFlags::IN, EventData::new_u64(0));
        for number in 0..3 {
            assert_eq!(add(&epoll, number, &file, wanted), Ok(()));
        }
        assert_eq!(file.aliases(), 2);
        assert_eq!(add(&file, 0, &epoll, wanted), Err(Errno::INVAL), "no epoll file");
        assert_eq!(delete(&file, 0, &epoll), Err(Errno::INVAL));
        assert_eq!(add(&epoll, 9, &epoll, wanted), Err(Errno::INVAL), "itself");
        let plain = rustix::fs::open("/proc/self/exe", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(add(&epoll, 9, &OpenFile::new(plain, true), wanted), Err(Errno::PERM));
        drop(epoll);
        assert_eq!(file.aliases(), 0);
    }
}
