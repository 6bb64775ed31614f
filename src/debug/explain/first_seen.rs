//! `hostel trace --explain`: each kind of exit is explained when it is seen first.

use super::table::one_line;
use crate::debug::event::ExitKind;

/// The kinds that were explained.
#[derive(Debug, Default)]
pub struct FirstSeen(Vec<ExitKind>);

impl FirstSeen {
    /// The line that explains `kind`, the first time.
    pub fn line(&mut self, kind: ExitKind) -> Option<String> {
        if self.0.contains(&kind) {
            return None;
        }
        self.0.push(kind);
        Some(format!("explain: {}: {}; more by `hostel explain {0}`\n", kind.name(), one_line(kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_explained_once() {
        let mut seen = FirstSeen::default();
        let first = seen.line(ExitKind::Halt).expect("it is the first");
        assert_eq!(first, "explain: hlt: HLT: the vCPU waits for an interrupt; more by `hostel explain hlt`\n");
        assert!(seen.line(ExitKind::Debug).is_some());
        assert_eq!(seen.line(ExitKind::Halt), None);
    }
}
