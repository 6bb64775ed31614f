//! Who lets a user open a device node: owner, group, everybody, or an entry of the node's access control list.
//!
//! Only what the node says; a container's device rules and a missing driver show when it is opened.
//! Sources: acl(5) "ACCESS CHECK ALGORITHM"; Linux include/uapi/linux/posix_acl_xattr.h and posix_acl.h.

use super::host::Host;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A user, as the kernel sees this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Effective user.
    pub uid: u32,
    /// Effective group and the others.
    pub gids: Vec<u32>,
}

impl User {
    /// The user that runs this process.
    pub fn current() -> User {
        let mut gids = vec![rustix::process::getegid().as_raw()];
        // The call fails only for a buffer that is too short, which rustix makes long enough.
        gids.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()));
        User { uid: rustix::process::geteuid().as_raw(), gids }
    }

    /// The user's name, or number.
    pub fn name(&self, host: &Host) -> String {
        host.user_name(self.uid).unwrap_or_else(|| self.uid.to_string())
    }

    /// User and groups in words.
    pub fn describe(&self, host: &Host) -> String {
        let mut groups: Vec<_> = self.gids.iter().map(|gid| group_name(host, *gid)).collect();
        groups.dedup();
        format!("you are {}, in {}", self.name(host), groups.join(", "))
    }
}

/// Owner and rights of a device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Rights of owner, group and others, 9 bits.
    pub mode: u32,
    /// The access control list; without one, the three entries that the mode means.
    pub acl: Vec<AclEntry>,
}

/// An entry of an access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclEntry {
    /// Whom it concerns: `ACL_*`.
    pub tag: u16,
    /// Bits: 4 read, 2 write, 1 execute.
    pub rights: u16,
    /// User or group, where the tag names one.
    pub id: u32,
}

/// The node's owner.
pub const ACL_USER_OBJ: u16 = 0x01;
/// A user by name.
pub const ACL_USER: u16 = 0x02;
/// The node's group.
pub const ACL_GROUP_OBJ: u16 = 0x04;
/// A group by name.
pub const ACL_GROUP: u16 = 0x08;
/// The most that named users and all groups get.
pub const ACL_MASK: u16 = 0x10;
/// Everybody else.
pub const ACL_OTHER: u16 = 0x20;

/// Name of the attribute that holds the list.
const ACL_ATTRIBUTE: &str = "system.posix_acl_access";
/// POSIX_ACL_XATTR_VERSION, the first 4 bytes of the attribute; entries of 8 bytes follow.
const ACL_VERSION: u32 = 2;
/// Longest list that is read, in bytes: some 500 entries.
const ACL_MAX: usize = 4096;
/// Read and write.
const READ_WRITE: u16 = 6;

impl Node {
    /// The node at `path`.
    ///
    /// # Errors
    /// There is none, or it cannot be looked at.
    pub fn at(path: &Path) -> std::io::Result<Node> {
        let metadata = std::fs::metadata(path)?;
        let mode = metadata.mode() & 0o777;
        let mut bytes = [0; ACL_MAX];
        let acl = rustix::fs::getxattr(path, ACL_ATTRIBUTE, &mut bytes).ok().and_then(|size| acl(&bytes[..size]));
        let acl = acl.unwrap_or_else(|| acl_of_mode(mode));
        Ok(Node { uid: metadata.uid(), gid: metadata.gid(), mode, acl })
    }

    /// Who lets `user` read and write, in words; `None` if nobody does.
    pub fn granted_by(&self, user: &User, host: &Host) -> Option<String> {
        if user.uid == 0 {
            return Some("you are root".to_owned());
        }
        let entries = |tag| self.acl.iter().filter(move |entry| entry.tag == tag);
        let mask = entries(ACL_MASK).next().map_or(READ_WRITE, |entry| entry.rights);
        let is_enough = |rights: u16| rights & READ_WRITE == READ_WRITE;
        if user.uid == self.uid {
            let owner = entries(ACL_USER_OBJ).any(|entry| is_enough(entry.rights));
            return owner.then(|| "you are its owner".to_owned());
        }
        if let Some(entry) = entries(ACL_USER).find(|entry| entry.id == user.uid) {
            return is_enough(entry.rights & mask).then(|| "its access control list names you".to_owned());
        }
        let own = entries(ACL_GROUP_OBJ).map(|entry| AclEntry { id: self.gid, ..*entry });
        let mut groups =
            own.chain(entries(ACL_GROUP).copied()).filter(|entry| user.gids.contains(&entry.id)).peekable();
        if groups.peek().is_some() {
            let group = groups.find(|entry| is_enough(entry.rights & mask))?.id;
            return Some(format!("you are in group {}", group_name(host, group)));
        }
        entries(ACL_OTHER).any(|entry| is_enough(entry.rights)).then(|| "everybody may use it".to_owned())
    }

    /// The group whose members may read and write, if there is one that is not root's.
    pub fn useful_group(&self) -> Option<u32> {
        (self.gid != 0 && self.mode & 0o060 == 0o060).then_some(self.gid)
    }

    /// Owner, group and rights, as `ls -l` has them.
    pub fn describe(&self, host: &Host) -> String {
        let owner = host.user_name(self.uid).unwrap_or_else(|| self.uid.to_string());
        let named = |tag| self.acl.iter().filter(move |entry| entry.tag == tag).count();
        let acl = match named(ACL_USER) + named(ACL_GROUP) {
            0 => String::new(),
            count => format!(", access control list with {count} more"),
        };
        format!("{owner}:{} {:04o}{acl}", group_name(host, self.gid), self.mode)
    }
}

/// Name of group `gid`, or its number.
pub fn group_name(host: &Host, gid: u32) -> String {
    host.group_name(gid).unwrap_or_else(|| gid.to_string())
}

/// The entries of the attribute; `None` if it is of another version.
fn acl(bytes: &[u8]) -> Option<Vec<AclEntry>> {
    let (version, entries) = bytes.split_first_chunk()?;
    let entry = |bytes: &[u8; 8]| AclEntry {
        tag: u16::from_le_bytes([bytes[0], bytes[1]]),
        rights: u16::from_le_bytes([bytes[2], bytes[3]]),
        id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    (u32::from_le_bytes(*version) == ACL_VERSION).then(|| entries.as_chunks().0.iter().map(entry).collect())
}

fn acl_of_mode(mode: u32) -> Vec<AclEntry> {
    let entry = |tag, shift: u32| AclEntry { tag, rights: (mode >> shift & 7) as u16, id: 0 };
    vec![entry(ACL_USER_OBJ, 6), entry(ACL_GROUP_OBJ, 3), entry(ACL_OTHER, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KVM: u32 = 104;

    fn node(mode: u32) -> Node {
        Node { uid: 0, gid: KVM, mode, acl: acl_of_mode(mode) }
    }

    fn granted(node: &Node, uid: u32, gids: &[u32]) -> Option<String> {
        node.granted_by(&User { uid, gids: gids.to_vec() }, &Host::new("/nonexistent"))
    }

    #[test]
    fn the_mode_grants_to_owner_group_and_others() {
        assert_eq!(granted(&node(0o600), 0, &[0]).as_deref(), Some("you are root"));
        assert_eq!(granted(&node(0o660), 1000, &[1000]), None);
        assert_eq!(granted(&node(0o660), 1000, &[1000, KVM]).as_deref(), Some("you are in group 104"));
        assert_eq!(granted(&node(0o666), 1000, &[1000]).as_deref(), Some("everybody may use it"));
        assert_eq!(granted(&node(0o606), 1000, &[KVM]), None, "a group's entry ends the search");
        let own = Node { uid: 1000, ..node(0o600) };
        assert_eq!(granted(&own, 1000, &[]).as_deref(), Some("you are its owner"));
    }

    #[test]
    fn the_list_grants_to_named_users_up_to_the_mask() {
        // As `setfacl -m u:1000:rw` leaves a node of mode 0600.
        let mut bytes = ACL_VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in [
            (ACL_USER_OBJ, 6u16, u32::MAX),
            (ACL_USER, 6, 1000),
            (ACL_GROUP_OBJ, 0, u32::MAX),
            (ACL_MASK, 6, 0),
            (ACL_OTHER, 0, 0),
        ] {
            bytes.extend(tag.to_le_bytes().iter().chain(&rights.to_le_bytes()).chain(&id.to_le_bytes()));
        }
        let mut node = Node { acl: acl(&bytes).unwrap(), ..node(0o660) };
        assert_eq!(granted(&node, 1000, &[]).as_deref(), Some("its access control list names you"));
        assert_eq!(granted(&node, 1001, &[]), None);
        assert_eq!(granted(&node, 1001, &[KVM]), None, "the mode's group bits are the mask, not the group's rights");
        assert!(node.describe(&Host::new("/nonexistent")).ends_with("0660, access control list with 1 more"));
        node.acl[3].rights = 4;
        assert_eq!(granted(&node, 1000, &[]), None);
    }

    #[test]
    fn broken_lists_are_none() {
        assert_eq!(acl(&[]), None);
        assert_eq!(acl(&[1, 0, 0, 0]), None);
        assert_eq!(acl(&[2, 0, 0, 0, 1, 0, 6]), Some(vec![]));
    }
}
