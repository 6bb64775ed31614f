//! Sorting and searching by a comparison of the program's.
//!
//! Heapsort: in place, without recursion, n log n whatever the order was, so that no input takes stack or time beyond that.
//! Sources: ISO C §7.22.5.1 (bsearch), §7.22.5.2 (qsort).

/// Compares two elements: negative, zero or positive.
type Compare = extern "win64" fn(*const u8, *const u8) -> i32;

/// Elements to be sorted.
struct Elements {
    first: *mut u8,
    size: usize,
    compare: Compare,
}

impl Elements {
    fn at(&self, index: usize) -> *mut u8 {
        self.first.wrapping_add(index.wrapping_mul(self.size))
    }

    fn is_less(&self, left: usize, right: usize) -> bool {
        (self.compare)(self.at(left), self.at(right)) < 0
    }

    fn swap(&self, left: usize, right: usize) {
        let (left, right) = (self.at(left), self.at(right));
        for i in 0..self.size {
            let (a, b) = (left.wrapping_add(i), right.wrapping_add(i));
            // SAFETY: the program vouches for its elements; wrong ones fault in the program.
            unsafe {
                let byte = a.read();
                a.write(b.read());
                b.write(byte);
            }
        }
    }

    /// Lets the element at `root` sink to its place among the first `count`, a heap but for it.
    fn sink(&self, mut root: usize, count: usize) {
        loop {
            let left = 2 * root + 1;
            if left >= count {
                return;
            }
            let larger = if left + 1 < count && self.is_less(left, left + 1) { left + 1 } else { left };
            if !self.is_less(root, larger) {
                return;
            }
            self.swap(root, larger);
            root = larger;
        }
    }
}

/// `qsort`.
pub extern "win64" fn sort(first: *mut u8, count: usize, size: usize, compare: Compare) {
    // More elements than this do not fit into memory, and twice an index must not overflow.
    if count > usize::MAX >> 2 {
        return;
    }
    let elements = Elements { first, size, compare };
    for root in (0..count / 2).rev() {
        elements.sink(root, count);
    }
    for last in (1..count).rev() {
        elements.swap(0, last);
        elements.sink(0, last);
    }
}

/// `bsearch`: an element that is equal to `key`, or null.
pub extern "win64" fn search(
    key: *const u8,
    first: *const u8,
    count: usize,
    size: usize,
    compare: Compare,
) -> *const u8 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        let element = first.wrapping_add(middle.wrapping_mul(size));
        match compare(key, element) {
            0 => return element,
            order if order < 0 => high = middle,
            _ => low = middle + 1,
        }
    }
    core::ptr::null()
}
