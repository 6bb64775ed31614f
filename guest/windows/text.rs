//! Functions of memory, texts and characters that need nothing but their arguments.
//!
//! A text ends at its zero byte, wherever that is: without one they read on until a page is missing, as they do on Windows.
//! Leaves out locales but "C".
//! Sources: ISO C §7.24 (strings), §7.4 (characters); Microsoft "_stricmp".

use core::cmp::min;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A byte of the program's.
fn byte(text: *const u8, index: usize) -> u8 {
    // SAFETY: the program vouches for its pointers; a wrong one faults in the program.
    unsafe { text.wrapping_add(index).read_volatile() }
}

fn put(text: *mut u8, index: usize, value: u8) {
    // SAFETY: as above.
    unsafe { text.wrapping_add(index).write_volatile(value) };
}

/// `strlen`, `lstrlenA`.
pub extern "win64" fn length(text: *const u8) -> usize {
    (0..).find(|index| byte(text, *index) == 0).unwrap_or(0)
}

/// `wcslen`.
pub extern "win64" fn wide_length(text: *const u16) -> usize {
    // SAFETY: as above.
    (0..).find(|index| unsafe { text.wrapping_add(*index).read_volatile() } == 0).unwrap_or(0)
}

/// `memcpy` and `memmove`: ranges may overlap.
pub extern "win64" fn copy(to: *mut u8, from: *const u8, size: usize) -> *mut u8 {
    // SAFETY: as above.
    unsafe { ptr::copy(from, to, size) };
    to
}

/// `memset`.
pub extern "win64" fn fill(to: *mut u8, value: i32, size: usize) -> *mut u8 {
    // SAFETY: as above.
    unsafe { ptr::write_bytes(to, value as u8, size) };
    to
}

/// The order of two bytes of the two texts, at the first index below `max` where they differ.
fn order(left: *const u8, right: *const u8, max: usize, is_text: bool, fold: fn(u8) -> u8) -> i32 {
    for index in 0..max {
        let (a, b) = (fold(byte(left, index)), fold(byte(right, index)));
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        if is_text && a == 0 {
            return 0;
        }
    }
    0
}

/// `memcmp`.
pub extern "win64" fn compare_bytes(left: *const u8, right: *const u8, size: usize) -> i32 {
    order(left, right, size, false, |byte| byte)
}

/// `strcmp`.
pub extern "win64" fn compare(left: *const u8, right: *const u8) -> i32 {
    order(left, right, usize::MAX, true, |byte| byte)
}

/// `strncmp`.
pub extern "win64" fn compare_at_most(left: *const u8, right: *const u8, max: usize) -> i32 {
    order(left, right, max, true, |byte| byte)
}

/// `_stricmp`.
pub extern "win64" fn compare_folded(left: *const u8, right: *const u8) -> i32 {
    order(left, right, usize::MAX, true, |byte| byte.to_ascii_lowercase())
}

/// `_strnicmp`.
pub extern "win64" fn compare_folded_at_most(left: *const u8, right: *const u8, max: usize) -> i32 {
    order(left, right, max, true, |byte| byte.to_ascii_lowercase())
}

/// `memchr`.
pub extern "win64" fn find_byte(bytes: *const u8, value: i32, size: usize) -> *const u8 {
    (0..size).find(|index| byte(bytes, *index) == value as u8).map_or(ptr::null(), |index| bytes.wrapping_add(index))
}

/// `strchr`: the zero at the end can be found too.
pub extern "win64" fn find_first(text: *const u8, value: i32) -> *const u8 {
    for index in 0.. {
        match byte(text, index) {
            found if found == value as u8 => return text.wrapping_add(index),
            0 => break,
            _ => {}
        }
    }
    ptr::null()
}

/// `strrchr`.
pub extern "win64" fn find_last(text: *const u8, value: i32) -> *const u8 {
    let found = (0..=length(text)).rev().find(|index| byte(text, *index) == value as u8);
    found.map_or(ptr::null(), |index| text.wrapping_add(index))
}

/// `strstr`.
pub extern "win64" fn find_text(text: *const u8, part: *const u8) -> *const u8 {
    let size = length(part);
    let mut at = text;
    while order(at, part, size, true, |byte| byte) != 0 {
        if byte(at, 0) == 0 {
            return ptr::null();
        }
        at = at.wrapping_add(1);
    }
    at
}

fn is_one_of(value: u8, set: *const u8) -> bool {
    value != 0 && !find_first(set, value.into()).is_null()
}

/// `strspn`: how many bytes of the set the text begins with.
pub extern "win64" fn span(text: *const u8, set: *const u8) -> usize {
    (0..).find(|index| !is_one_of(byte(text, *index), set)).unwrap_or(0)
}

/// `strcspn`: how many bytes the text has before one of the set.
pub extern "win64" fn span_without(text: *const u8, set: *const u8) -> usize {
    (0..).find(|index| byte(text, *index) == 0 || is_one_of(byte(text, *index), set)).unwrap_or(0)
}

/// `strpbrk`.
pub extern "win64" fn find_any(text: *const u8, set: *const u8) -> *const u8 {
    let found = text.wrapping_add(span_without(text, set));
    if byte(found, 0) == 0 { ptr::null() } else { found }
}

/// Where `strtok` goes on.
static REST: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// `strtok`.
pub extern "win64" fn token(text: *mut u8, set: *const u8) -> *mut u8 {
    let text = if text.is_null() { REST.load(Ordering::Relaxed) } else { text };
    if text.is_null() {
        return text;
    }
    let start = text.wrapping_add(span(text, set));
    let end = start.wrapping_add(span_without(start, set));
    let is_last = byte(end, 0) == 0;
    REST.store(if is_last { ptr::null_mut() } else { end.wrapping_add(1) }, Ordering::Relaxed);
    if !is_last {
        put(end, 0, 0);
    }
    if start == end { ptr::null_mut() } else { start }
}

/// `strcpy`.
pub extern "win64" fn copy_text(to: *mut u8, from: *const u8) -> *mut u8 {
    copy(to, from, length(from) + 1)
}

/// `strncpy`: exactly `size` bytes, zeros behind a shorter text.
pub extern "win64" fn copy_at_most(to: *mut u8, from: *const u8, size: usize) -> *mut u8 {
    let count = (0..size).find(|index| byte(from, *index) == 0).unwrap_or(size);
    copy(to, from, count);
    fill(to.wrapping_add(count), 0, size - count);
    to
}

/// `strcat`.
pub extern "win64" fn append(to: *mut u8, from: *const u8) -> *mut u8 {
    copy_text(to.wrapping_add(length(to)), from);
    to
}

/// `strncat`.
pub extern "win64" fn append_at_most(to: *mut u8, from: *const u8, max: usize) -> *mut u8 {
    let end = to.wrapping_add(length(to));
    let count = min(max, (0..max).find(|index| byte(from, *index) == 0).unwrap_or(max));
    copy(end, from, count);
    put(end, count, 0);
    to
}

fn class(value: i32, is: fn(&u8) -> bool) -> i32 {
    u8::try_from(value).is_ok_and(|byte| is(&byte)).into()
}

/// `tolower`.
pub extern "win64" fn to_lower(value: i32) -> i32 {
    u8::try_from(value).map_or(value, |byte| byte.to_ascii_lowercase().into())
}

/// `toupper`.
pub extern "win64" fn to_upper(value: i32) -> i32 {
    u8::try_from(value).map_or(value, |byte| byte.to_ascii_uppercase().into())
}

/// `isalnum`.
pub extern "win64" fn is_alphanumeric(value: i32) -> i32 {
    class(value, u8::is_ascii_alphanumeric)
}

/// `isalpha`.
pub extern "win64" fn is_alphabetic(value: i32) -> i32 {
    class(value, u8::is_ascii_alphabetic)
}

/// `isdigit`.
pub extern "win64" fn is_digit(value: i32) -> i32 {
    class(value, u8::is_ascii_digit)
}

/// `islower`.
pub extern "win64" fn is_lower(value: i32) -> i32 {
    class(value, u8::is_ascii_lowercase)
}

/// `isprint`.
pub extern "win64" fn is_printable(value: i32) -> i32 {
    class(value, |byte| matches!(byte, b' '..=b'~'))
}

/// `ispunct`.
pub extern "win64" fn is_punctuation(value: i32) -> i32 {
    class(value, u8::is_ascii_punctuation)
}

/// `isspace`: vertical tabs too.
pub extern "win64" fn is_space(value: i32) -> i32 {
    class(value, |byte| matches!(byte, b' ' | b'\t'..=b'\r'))
}

/// `isupper`.
pub extern "win64" fn is_upper(value: i32) -> i32 {
    class(value, u8::is_ascii_uppercase)
}

/// `isxdigit`.
pub extern "win64" fn is_hexadecimal(value: i32) -> i32 {
    class(value, u8::is_ascii_hexdigit)
}

/// `abs`.
pub extern "win64" fn absolute(value: i32) -> i32 {
    value.wrapping_abs()
}
