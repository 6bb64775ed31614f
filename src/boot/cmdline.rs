//! The command line of a guest: Hostel's words for Linux, then the user's, then the guest's arguments.
//!
//! Source: Linux kernel-parameters.txt. Linux takes the last of two words that contradict each other.

/// Words for Linux on this machine, each with its reason. None of them turns a panic into a clean reboot.
const LINUX_DEFAULTS: &[&str] = &[
    // The console is the serial port.
    "console=ttyS0",
    // There is one serial port: three others would be probed for.
    "8250.nr_uarts=1",
    // kvmclock and the LAPIC keep the time, so the TSC needs no watchdog against a clock that is not there.
    "tsc=reliable",
    // RDRAND seeds the random pool: programs need not wait for interrupts to do it.
    "random.trust_cpu=on",
];

/// Where there is a virtio console, it is the console; the serial port has the kernel's messages from the start on.
const VIRTIO_CONSOLE: &str = "console=hvc0";

/// Beside a command, what is no warning would only take time.
const QUIET: &str = "quiet";

/// Where there is no PCI bridge, its configuration ports would be probed.
const NO_PCI: &str = "pci=off";

/// What a command line is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Words<'a> {
    /// The machine has a PCI bridge.
    pub pci: bool,
    /// The machine has a virtio console, which is to be the guest's.
    pub virtio_console: bool,
    /// A command is run (`--root`), whose words are not for the kernel, and its output alone goes to the console.
    pub command: bool,
    /// The guest is Linux, and gets its default words.
    pub linux_defaults: bool,
    /// What the user appends.
    pub user: &'a str,
    /// Arguments for the guest; Linux hands those behind `--` to its init.
    pub arguments: &'a [String],
    /// The guest is Linux.
    pub linux: bool,
}

impl Words<'_> {
    /// The words as one line.
    pub fn join(&self) -> String {
        let mut words = Vec::new();
        if self.linux_defaults {
            words.extend(LINUX_DEFAULTS);
            words.extend((!self.pci).then_some(NO_PCI));
            words.extend((self.virtio_console && !self.command).then_some(VIRTIO_CONSOLE));
            words.extend(self.command.then_some(QUIET));
        }
        words.push(self.user.trim());
        let arguments = if self.command { &[] } else { self.arguments };
        if self.linux && !arguments.is_empty() {
            words.push("--");
        }
        words.extend(arguments.iter().map(String::as_str));
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_words_come_last() {
        let words = Words { linux_defaults: true, linux: true, user: "console=hvc0", ..Words::default() }.join();
        assert!(words.starts_with("console=ttyS0 ") && words.ends_with(" console=hvc0"), "{words}");
        assert!(!words.contains("panic="));
    }

    #[test]
    fn arguments_follow_two_dashes_for_linux_only() {
        let arguments = ["nproc".to_string(), "poweroff".to_string()];
        let words = Words { arguments: &arguments, user: " quiet ", ..Words::default() };
        assert_eq!(words.join(), "quiet nproc poweroff");
        assert_eq!(Words { linux: true, ..words }.join(), "quiet -- nproc poweroff");
        assert_eq!(Words::default().join(), "");
        let command = Words { linux: true, command: true, linux_defaults: true, ..words }.join();
        assert!(!command.contains("nproc") && command.ends_with(" quiet"), "{command}");
    }
}
