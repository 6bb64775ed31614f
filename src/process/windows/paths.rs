//! Paths of Windows as paths of Linux.
//!
//! `\` and `/` both part; drive `C:` is the root, and a path behind any other drive leads nowhere. `NUL` is the null device. Upper and
//! lower case differ, as on the host. Leaves out UNC paths, the other devices and a directory for each drive.
//! Source: Microsoft "Naming Files, Paths, and Namespaces".

/// The path for Linux; `None`: there can be none.
pub fn to_linux(path: &[u8]) -> Option<Vec<u8>> {
    if path.eq_ignore_ascii_case(b"nul") {
        return Some(b"/dev/null".to_vec());
    }
    let slashes = |path: &[u8]| path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect::<Vec<_>>();
    match path {
        [b'C' | b'c', b':', rest @ ..] if rest.starts_with(b"\\") || rest.starts_with(b"/") => Some(slashes(rest)),
        [b'C' | b'c', b':', rest @ ..] => Some([b"/", slashes(rest).as_slice()].concat()),
        [drive, b':', ..] if drive.is_ascii_alphabetic() => None,
        [b'\\' | b'/', b'\\' | b'/', ..] | [] => None,
        path => Some(slashes(path)),
    }
}

/// The path for Windows of an absolute one of Linux.
pub fn to_windows(path: &[u8]) -> Vec<u8> {
    let drive: &[u8] = if path.starts_with(b"/") { b"C:" } else { b"" };
    drive.iter().chain(path).map(|byte| if *byte == b'/' { b'\\' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_and_separators_are_translated() {
        for (path, want) in [
            (r"C:\dir\file.txt", Some("/dir/file.txt")),
            ("c:/dir", Some("/dir")),
            ("C:file", Some("/file")),
            (r"dir\file", Some("dir/file")),
            (r"..\file", Some("../file")),
            (r"\file", Some("/file")),
            ("nul", Some("/dev/null")),
            ("D:\\file", None),
            (r"\\server\share", None),
            ("", None),
        ] {
            assert_eq!(to_linux(path.as_bytes()), want.map(|path| path.as_bytes().to_vec()), "{path}");
        }
        assert_eq!(to_windows(b"/dir/a.exe"), br"C:\dir\a.exe");
        assert_eq!(to_windows(b"a/b"), br"a\b");
    }
}
