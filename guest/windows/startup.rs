//! Beginning and end of a program: thread-storage callbacks, the entry, functions to be run at the end.
//!
//! Leaves out threads: callbacks are told of the process alone.
//! Sources: PE Format "TLS Callback Functions"; Microsoft "_initterm", "_onexit", "ExitProcess function"; ISO C §7.22.4.4.

use core::cell::UnsafeCell;
use core::ptr;

/// What Hostel hands over (`src/process/windows/start.rs` writes it).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parameters {
    /// The program's entry; it takes the address of the process's block and returns a status.
    entry: extern "win64" fn(usize) -> u32,
    /// The process environment block.
    block: usize,
    /// Where the program lies.
    base: usize,
    /// Thread-storage callbacks, ended by `None`; may be null.
    callbacks: *const Option<Callback>,
    /// Ends the process: a trap.
    terminate: extern "win64" fn(usize, u32) -> !,
}

type Callback = extern "win64" fn(usize, u32, usize);
type Plain = extern "win64" fn();

const DETACH: u32 = 0;
const ATTACH: u32 = 1;
/// Most functions to be run at the end; ISO C asks for 32.
const EXIT_FUNCTIONS: usize = 256;

/// What the only thread keeps.
pub struct State {
    parameters: Option<Parameters>,
    exit_functions: [Option<Plain>; EXIT_FUNCTIONS],
    count: usize,
}

/// [`State`] where it can be changed.
pub struct Cell(UnsafeCell<State>);

// SAFETY: a program has one thread.
unsafe impl Sync for Cell {}

impl Cell {
    /// Where it lies.
    pub const fn address(&self) -> *const State {
        self.0.get()
    }
}

/// What the runtime keeps. The linker script puts this section in front of all other variables.
#[unsafe(link_section = ".data.page_tables")]
pub static STATE: Cell =
    Cell(UnsafeCell::new(State { parameters: None, exit_functions: [None; EXIT_FUNCTIONS], count: 0 }));

/// The state. No two references live at a time: each use ends before the program's own code is called.
fn state() -> *mut State {
    STATE.0.get()
}

/// Where a program begins.
pub extern "win64" fn start(parameters: *const Parameters) -> ! {
    // SAFETY: Hostel passes the address of parameters that it has written.
    let parameters = unsafe { *parameters };
    // SAFETY: see `state`.
    unsafe { (*state()).parameters = Some(parameters) };
    call_callbacks(&parameters, ATTACH);
    exit_process((parameters.entry)(parameters.block))
}

fn call_callbacks(parameters: &Parameters, reason: u32) {
    let mut list = parameters.callbacks;
    // SAFETY: the program's own list, which its loader data names; a wrong one faults in the program.
    while !list.is_null()
        && let Some(callback) = unsafe { list.read_unaligned() }
    {
        callback(parameters.base, reason, 0);
        list = list.wrapping_add(1);
    }
}

/// Tells the thread-storage callbacks, once, and ends the process.
pub extern "win64" fn exit_process(status: u32) -> ! {
    // SAFETY: see `state`.
    let parameters = unsafe { (*state()).parameters };
    let Some(parameters) = parameters else { loop {} };
    let told = Parameters { callbacks: ptr::null(), ..parameters };
    // A callback that ends the process itself is not called again.
    // SAFETY: see `state`.
    unsafe { (*state()).parameters = Some(told) };
    call_callbacks(&parameters, DETACH);
    (parameters.terminate)(usize::MAX, status)
}

/// Calls each function of a list that is not null.
pub extern "win64" fn initialize(mut first: *const Option<Plain>, end: *const Option<Plain>) {
    while first < end {
        // SAFETY: the program names a list of its own; a wrong one faults in the program.
        if let Some(function) = unsafe { first.read_unaligned() } {
            function();
        }
        first = first.wrapping_add(1);
    }
}

/// Notes a function to be called at the end; `None`: there is no room for it.
pub extern "win64" fn on_exit(function: Option<Plain>) -> Option<Plain> {
    // SAFETY: see `state`.
    let state = unsafe { &mut *state() };
    let slot = state.exit_functions.get_mut(state.count)?;
    *slot = function;
    state.count += 1;
    function
}

/// Calls what was noted, the last first.
pub extern "win64" fn run_exit_functions() {
    loop {
        // SAFETY: see `state`; the reference ends before the call, which may note another function.
        let state = unsafe { &mut *state() };
        let Some(count) = state.count.checked_sub(1) else { return };
        state.count = count;
        if let Some(function) = state.exit_functions.get(count).copied().flatten() {
            function();
        }
    }
}

/// Ends the program as `return` from `main` does.
pub extern "win64" fn exit(status: u32) -> ! {
    run_exit_functions();
    exit_process(status)
}
