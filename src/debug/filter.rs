//! Which exits of a trace are shown: those of some kinds, devices or vCPUs. Only what a user looks at is filtered; summaries,
//! reports and checks see every exit.

use super::event::{ExitEvent, ExitKind};

/// The exits that are shown. An empty list lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    kinds: Vec<ExitKind>,
    devices: Vec<String>,
    vcpus: Vec<u32>,
}

impl Filter {
    /// Exits of the kinds that `words` mean ("pio", "mmio-read"), of these devices in whatever case, of these vCPUs.
    ///
    /// # Errors
    /// A word means no kind: the message lists those that there are.
    pub fn new(words: &[String], devices: &[String], vcpus: &[u32]) -> Result<Filter, String> {
        let mut kinds = Vec::new();
        for word in words {
            let meant = ExitKind::ALL.into_iter().filter(|kind| kind.is_meant_by(word));
            let before = kinds.len();
            kinds.extend(meant);
            if kinds.len() == before {
                let names = ExitKind::ALL.map(ExitKind::name).join(", ");
                return Err(format!("no exit is called {word:?}: use pio, mmio, msr or {names}"));
            }
        }
        Ok(Filter { kinds, devices: devices.to_vec(), vcpus: vcpus.to_vec() })
    }

    /// Whether `event` is shown.
    pub fn passes(&self, event: &ExitEvent) -> bool {
        let of_device = || {
            let device = event.register.map(|to| to.device);
            device.is_some_and(|device| self.devices.iter().any(|wanted| wanted.eq_ignore_ascii_case(device)))
        };
        (self.kinds.is_empty() || self.kinds.contains(&ExitKind::of(&event.exit)))
            && (self.vcpus.is_empty() || self.vcpus.contains(&event.vcpu))
            && (self.devices.is_empty() || of_device())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{event, serial};
    use super::*;
    use crate::kvm::exit::Exit;

    fn filter(words: &[&str], devices: &[&str], vcpus: &[u32]) -> Filter {
        let own = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        Filter::new(&own(words), &own(devices), vcpus).unwrap()
    }

    #[test]
    fn exits_pass_by_kind_device_and_processor() {
        let (byte, halt) = (serial(b'x'), event(Exit::Halt));
        let passes = |filter: &Filter| (filter.passes(&byte), filter.passes(&halt));
        assert_eq!(passes(&Filter::default()), (true, true));
        assert_eq!(passes(&filter(&["pio"], &[], &[])), (true, false));
        assert_eq!(passes(&filter(&["pio-read", "hlt"], &[], &[])), (false, true));
        assert_eq!(passes(&filter(&[], &["com1"], &[0])), (true, false));
        assert_eq!(passes(&filter(&[], &[], &[1])), (false, false));
    }

    #[test]
    fn a_word_for_no_kind_is_refused_with_those_that_there_are() {
        let error = Filter::new(&["pio".into(), "ioctl".into()], &[], &[]).unwrap_err();
        assert!(error.starts_with("no exit is called \"ioctl\": use pio, mmio, msr or pio-read, "), "{error}");
    }
}
