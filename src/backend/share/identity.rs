//! Who files are made by: as root, the user of the guest who asked; else whoever runs the machine.
//!
//! Users and groups of guest and host are the same numbers. A thread of root takes on the user's effective IDs for the one call that
//! makes a file, so that it never belongs to anybody else, not for a moment; it keeps the right to write into any directory, since who
//! may do what was decided by the guest's kernel. Sources: setresuid(2), capabilities(7).

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid,
};

/// Who this process is.
pub struct Identity {
    /// Its rights, if it may be anybody.
    root: Option<CapabilitySets>,
}

impl Identity {
    /// This process as it is now.
    pub fn new() -> Identity {
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::DAC_OVERRIDE;
        let rights = capabilities(None).ok().filter(|rights| rights.effective.contains(needed));
        Identity { root: rights.filter(|_| rustix::process::geteuid().is_root()) }
    }

    /// Does what makes a file, as this user and group of the guest.
    ///
    /// # Errors
    /// What `make` says; EPERM where there can be no such user on this host.
    pub fn acting_as<T>(&self, uid: u32, gid: u32, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let Some(rights) = self.root.filter(|_| (uid, gid) != (0, 0)) else { return make() };
        // Means "as it is" to the calls below.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        set_thread_res_gid(None, Gid::from_raw(gid), None).map_err(|_| Errno::PERM)?;
        let made = match set_thread_res_uid(None, Uid::from_raw(uid), None) {
            Ok(()) => {
                let kept = CapabilitySets { effective: CapabilitySet::DAC_OVERRIDE, ..rights };
                let made = set_capabilities(None, kept).and_then(|()| make());
                set_thread_res_uid(None, Uid::ROOT, None).expect("the saved user is root");
                set_capabilities(None, rights).expect("all of them are permitted");
                made
            }
            Err(_) => Err(Errno::PERM),
        };
        set_thread_res_gid(None, Gid::ROOT, None).expect("root may be of any group");
        made
    }
}

impl Default for Identity {
    fn default() -> Identity {
        Identity::new()
    }
}
