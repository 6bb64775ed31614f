//! The functions and variables that a foreign program may import: one flat table.
//!
//! Most are answered by a trap: the import is bound to a stub that traps to Hostel ([`super::stubs`]). Some are code in the program's own
//! memory (`guest/windows/runtime.rs`), and a few are variables. What is not in the table is not there: a program that imports it is
//! refused, by name, before it starts.
//! Sources: Microsoft "Windows API index", "Universal C runtime routines by category".

use super::call::{Answer, Call};
use super::layout::{RUNTIME, STUBS, VARIABLES, variable};
use super::runtime;
use super::stubs::STUB_SIZE;
use super::{crt_print as printing, crt_process as process, crt_streams as streams, crt_transfer as transfer};
use super::{kernel_files, kernel_memory, kernel_process, kernel_text, kernel_wait};

/// What answers a call.
pub type Handler = fn(&mut Call) -> Answer;

/// How an import is answered.
#[derive(Clone, Copy, Debug)]
pub enum Binding {
    /// By a trap to this handler. The letters say what its arguments are, for the trace: `h`andle, `p`ointer or flags, `n`umber, `i`nteger
    /// with a sign, `s`: text, `w`: wide text, `.`: any number of others.
    Trap(Handler, &'static str),
    /// By code in the program's memory.
    Runtime,
    /// It is a variable, so far into those of the libraries.
    Variable(u64),
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// The library, as in [`LIBRARIES`].
    pub library: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What answers it.
    pub binding: Binding,
    /// What it does.
    pub about: &'static str,
}

/// The libraries, in lower case and without `.dll`.
pub const LIBRARIES: &[&str] = &["kernel32", "msvcrt", "ntdll"];

const fn kernel(name: &'static str, handler: Handler, arguments: &'static str, about: &'static str) -> Function {
    Function { library: "kernel32", name, binding: Binding::Trap(handler, arguments), about }
}

const fn crt(name: &'static str, handler: Handler, arguments: &'static str, about: &'static str) -> Function {
    Function { library: "msvcrt", name, binding: Binding::Trap(handler, arguments), about }
}

const fn inside(library: &'static str, name: &'static str, about: &'static str) -> Function {
    Function { library, name, binding: Binding::Runtime, about }
}

const fn variable(name: &'static str, offset: u64, about: &'static str) -> Function {
    Function { library: "msvcrt", name, binding: Binding::Variable(offset), about }
}

/// All of them, by library and name.
#[rustfmt::skip]
pub const FUNCTIONS: &[Function] = &[
    kernel("CloseHandle", kernel_files::close, "h", "closes a file"),
    kernel("CreateFileA", kernel_files::create, "spnpnph", "opens or makes a file"),
    kernel("CreateSemaphoreW", kernel_wait::create, "pnnw", "makes a semaphore"),
    kernel("DeleteCriticalSection", process::nothing, "p", "forgets a lock"),
    kernel("DeleteFileA", kernel_files::delete, "s", "removes a file"),
    kernel("EnterCriticalSection", kernel_process::enter_section, "p", "takes a lock"),
    inside("kernel32", "ExitProcess", "tells thread-storage callbacks and ends the program"),
    kernel("FlushFileBuffers", process::one, "h", "nothing is held back for handles"),
    kernel("GetCommandLineA", kernel_process::command_line, "", "the command line"),
    kernel("GetCurrentProcess", kernel_process::this_process, "", "the process's own handle"),
    kernel("GetCurrentProcessId", kernel_process::identifier, "", "the process's number"),
    kernel("GetCurrentThreadId", kernel_process::thread_identifier, "", "the thread's number"),
    kernel("GetEnvironmentVariableA", kernel_process::environment_variable, "spn", "a variable of the environment"),
    kernel("GetFileSize", kernel_files::size, "hp", "bytes of a file"),
    kernel("GetFileSizeEx", kernel_files::size_64, "hp", "bytes of a file, in 64 bits"),
    kernel("GetFileType", kernel_files::kind, "h", "whether it is a file, a terminal or a pipe"),
    kernel("GetLastError", kernel_process::last_error, "", "why the last function failed"),
    kernel("GetModuleFileNameA", kernel_process::module_file_name, "hpn", "the program's path"),
    kernel("GetModuleHandleA", kernel_process::module_handle, "s", "the program or a library"),
    kernel("GetProcAddress", kernel_process::function_address, "hs", "a function of a library"),
    kernel("GetProcessHeap", kernel_memory::heap, "", "the heap"),
    kernel("GetStartupInfoA", kernel_process::startup_info, "p", "how the program was started"),
    kernel("GetStdHandle", kernel_files::standard_handle, "i", "standard input, output or error"),
    kernel("GetSystemTimeAsFileTime", kernel_process::system_time, "p", "time since 1601"),
    kernel("GetTickCount", kernel_process::ticks, "", "milliseconds since the start"),
    kernel("GetTickCount64", kernel_process::ticks, "", "the same in 64 bits"),
    kernel("HeapAlloc", kernel_memory::heap_allocate, "hnn", "a block of memory"),
    kernel("HeapFree", kernel_memory::heap_free, "hnp", "frees a block"),
    kernel("HeapReAlloc", kernel_memory::heap_resize, "hnpn", "gives a block another size"),
    kernel("HeapSize", kernel_memory::heap_size, "hnp", "bytes of a block"),
    kernel("InitializeCriticalSection", kernel_process::make_section, "p", "makes a lock"),
    kernel("IsDBCSLeadByteEx", kernel_text::no_lead_byte, "nn", "no byte begins a pair"),
    kernel("LeaveCriticalSection", kernel_process::leave_section, "p", "gives a lock back"),
    kernel("MultiByteToWideChar", kernel_text::to_wide, "nnpipi", "bytes become 16-bit units"),
    kernel("QueryPerformanceCounter", kernel_process::counter, "p", "nanoseconds since the start"),
    kernel("QueryPerformanceFrequency", kernel_process::counter_frequency, "p", "that they are nanoseconds"),
    kernel("ReadFile", kernel_files::read, "hpnpp", "reads from a file"),
    kernel("ReleaseSemaphore", kernel_wait::release, "hnp", "adds to a semaphore"),
    kernel("SetFilePointer", kernel_files::move_pointer, "hipn", "moves in a file"),
    kernel("SetFilePointerEx", kernel_files::move_pointer_64, "hipn", "moves in a file, in 64 bits"),
    kernel("SetLastError", kernel_process::set_last_error, "n", "what GetLastError is to tell"),
    kernel("SetUnhandledExceptionFilter", kernel_process::no_filter_before, "p", "takes a handler, never calls it"),
    kernel("Sleep", kernel_process::sleep, "n", "waits for milliseconds"),
    kernel("TlsAlloc", kernel_process::take_slot, "", "takes a thread-local slot"),
    kernel("TlsFree", kernel_process::free_slot, "n", "gives a slot back"),
    kernel("TlsGetValue", kernel_process::slot_value, "n", "reads a slot"),
    kernel("TlsSetValue", kernel_process::set_slot, "np", "writes a slot"),
    kernel("VirtualAlloc", kernel_memory::allocate, "pnpp", "makes pages"),
    kernel("VirtualFree", kernel_memory::free, "pnp", "takes pages away"),
    kernel("VirtualProtect", kernel_memory::protect, "pnpp", "changes what may be done with pages"),
    kernel("VirtualQuery", kernel_memory::query, "ppn", "what lies at an address"),
    kernel("WaitForSingleObject", kernel_wait::wait, "hn", "takes from a semaphore"),
    kernel("WideCharToMultiByte", kernel_text::from_wide, "nnpipipp", "16-bit units become bytes"),
    kernel("WriteFile", kernel_files::write, "hpnpp", "writes to a file"),
    inside("kernel32", "lstrlenA", "length of a text"),
    crt("__C_specific_handler", process::abort, "pppp", "nothing calls it: exceptions end the program"),
    crt("___lc_codepage_func", process::nothing, "", "no code page: locale C"),
    crt("___mb_cur_max_func", process::one, "", "a character is one byte"),
    crt("__getmainargs", process::main_arguments, "pppip", "arguments and environment"),
    variable("__initenv", variable::ENVIRONMENT, "the environment"),
    crt("__iob_func", streams::array, "", "the array of FILE"),
    crt("__set_app_type", process::nothing, "i", "notes that it is a console program"),
    crt("__setusermatherr", process::nothing, "p", "takes a handler, never calls it"),
    variable("_acmdln", variable::COMMAND_LINE, "the command line"),
    crt("_amsg_exit", process::end_with_message, "i", "ends a program that cannot begin"),
    inside("msvcrt", "_cexit", "runs what is noted for the end"),
    variable("_commode", variable::COMMIT_MODE, "whether flushing reaches the disk"),
    crt("_errno", process::error_address, "", "where errno lies"),
    inside("msvcrt", "_exit", "ends the program at once"),
    crt("_fileno", streams::number, "p", "a stream's file"),
    variable("_fmode", variable::FILE_MODE, "how files are opened"),
    inside("msvcrt", "_initterm", "calls a list of functions"),
    crt("_lock", process::nothing, "i", "takes a lock of the runtime's"),
    inside("msvcrt", "_onexit", "notes a function for the end"),
    crt("_setmode", streams::set_mode, "in", "text or binary"),
    crt("_snprintf", printing::print_text_bounded, "pns.", "formats into a buffer"),
    crt("_strdup", process::duplicate, "s", "copies a text into a new block"),
    inside("msvcrt", "_stricmp", "compares texts in any case"),
    inside("msvcrt", "_strnicmp", "compares their beginnings"),
    crt("_time64", process::time, "p", "seconds since 1970"),
    crt("_unlock", process::nothing, "i", "gives a lock back"),
    crt("_vsnprintf", printing::print_text_bounded_list, "pnsp", "formats a list into a buffer"),
    crt("abort", process::abort, "", "ends the program as one that went wrong"),
    inside("msvcrt", "abs", "a number without its sign"),
    crt("atoi", process::to_integer, "s", "a number"),
    inside("msvcrt", "bsearch", "searches a sorted array"),
    crt("calloc", process::allocate_clear, "nn", "a block of zeros"),
    crt("clearerr", streams::clear, "p", "forgets a stream's end and failure"),
    crt("clock", process::clock, "", "milliseconds since the start"),
    inside("msvcrt", "exit", "runs what is noted, and ends the program"),
    crt("fclose", streams::close, "p", "closes a stream"),
    crt("feof", streams::at_end, "p", "whether the end was read"),
    crt("ferror", streams::has_failed, "p", "whether the file failed"),
    crt("fflush", streams::flush, "p", "writes what is held back"),
    crt("fgetc", transfer::get, "p", "reads a byte"),
    crt("fgets", transfer::read_line, "pip", "reads a line"),
    crt("fopen", streams::open, "ss", "opens a stream"),
    crt("fprintf", printing::print_to, "ps.", "formats to a stream"),
    crt("fputc", transfer::put, "ip", "writes a byte"),
    crt("fputs", transfer::put_text, "sp", "writes a text"),
    crt("fread", transfer::read_items, "pnnp", "reads items"),
    crt("free", process::release, "p", "frees a block"),
    crt("fseek", streams::seek, "pin", "moves in a stream"),
    crt("ftell", streams::tell, "p", "where a stream is"),
    crt("fwrite", transfer::write_items, "pnnp", "writes items"),
    crt("getc", transfer::get, "p", "reads a byte"),
    crt("getchar", transfer::get_standard, "", "reads a byte of standard input"),
    crt("getenv", process::environment_variable, "s", "a variable of the environment"),
    inside("msvcrt", "isalnum", "letter or digit"),
    inside("msvcrt", "isalpha", "letter"),
    inside("msvcrt", "isdigit", "digit"),
    inside("msvcrt", "islower", "small letter"),
    inside("msvcrt", "isprint", "printable"),
    inside("msvcrt", "ispunct", "punctuation"),
    inside("msvcrt", "isspace", "space"),
    inside("msvcrt", "isupper", "capital letter"),
    inside("msvcrt", "isxdigit", "hexadecimal digit"),
    crt("localeconv", process::locale, "", "how numbers are written"),
    crt("malloc", process::allocate, "n", "a block of memory"),
    inside("msvcrt", "memchr", "finds a byte"),
    inside("msvcrt", "memcmp", "compares bytes"),
    inside("msvcrt", "memcpy", "copies bytes"),
    inside("msvcrt", "memmove", "copies bytes that may overlap"),
    inside("msvcrt", "memset", "fills with a byte"),
    crt("perror", printing::complain, "s", "writes what errno says"),
    crt("printf", printing::print, "s.", "formats to standard output"),
    crt("putc", transfer::put, "ip", "writes a byte"),
    crt("putchar", transfer::put_standard, "i", "writes a byte to standard output"),
    crt("puts", transfer::put_line, "s", "writes a line to standard output"),
    inside("msvcrt", "qsort", "sorts an array"),
    crt("rand", process::random, "", "a random number"),
    crt("realloc", process::resize, "pn", "gives a block another size"),
    crt("remove", streams::remove, "s", "removes a file"),
    crt("rewind", streams::rewind, "p", "moves to the beginning"),
    crt("setvbuf", streams::buffer, "ppnn", "whether output is held back"),
    crt("signal", process::nothing, "ip", "takes a handler, never calls it"),
    crt("sprintf", printing::print_text, "ps.", "formats into a buffer"),
    crt("srand", process::seed, "n", "where random numbers begin"),
    inside("msvcrt", "strcat", "appends a text"),
    inside("msvcrt", "strchr", "finds a character"),
    inside("msvcrt", "strcmp", "compares texts"),
    inside("msvcrt", "strcpy", "copies a text"),
    inside("msvcrt", "strcspn", "bytes before one of a set"),
    crt("strerror", process::describe_error, "i", "an error in words"),
    inside("msvcrt", "strlen", "length of a text"),
    inside("msvcrt", "strncat", "appends at most so much"),
    inside("msvcrt", "strncmp", "compares at most so much"),
    inside("msvcrt", "strncpy", "copies at most so much"),
    inside("msvcrt", "strpbrk", "finds one of a set"),
    inside("msvcrt", "strrchr", "finds the last such character"),
    inside("msvcrt", "strspn", "bytes of a set at the beginning"),
    inside("msvcrt", "strstr", "finds a text in a text"),
    inside("msvcrt", "strtok", "cuts a text into words"),
    crt("strtol", process::to_signed, "spn", "a number in any base"),
    crt("strtoul", process::to_unsigned, "spn", "the same without a sign"),
    inside("msvcrt", "tolower", "the small letter"),
    inside("msvcrt", "toupper", "the capital letter"),
    crt("ungetc", transfer::put_back, "ip", "puts a byte back"),
    crt("vfprintf", printing::print_list_to, "psp", "formats a list to a stream"),
    crt("vprintf", printing::print_list, "sp", "formats a list to standard output"),
    crt("vsprintf", printing::print_text_list, "psp", "formats a list into a buffer"),
    inside("msvcrt", "wcslen", "length of a wide text"),
    Function { library: "ntdll", name: "NtTerminateProcess", binding: Binding::Trap(kernel_process::terminate, "hn"), about: "ends the process" },
];

/// The index in [`LIBRARIES`] of a library by the name that a program writes, in any case and with or without `.dll`.
pub fn library(name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".dll").unwrap_or(&name);
    LIBRARIES.iter().position(|library| *library == name)
}

/// The address that answers a function of a library, named as in [`LIBRARIES`].
pub fn address(library: &str, name: &str) -> Option<u64> {
    let index = FUNCTIONS.binary_search_by_key(&(library, name), |function| (function.library, function.name)).ok()?;
    match FUNCTIONS[index].binding {
        Binding::Trap(..) => Some(STUBS + index as u64 * STUB_SIZE),
        Binding::Runtime => runtime::export(name).map(|offset| RUNTIME + offset),
        Binding::Variable(offset) => Some(VARIABLES + offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_row_has_an_address() {
        assert!(FUNCTIONS.windows(2).all(|pair| (pair[0].library, pair[0].name) < (pair[1].library, pair[1].name)));
        for function in FUNCTIONS {
            assert!(LIBRARIES.contains(&function.library), "{}", function.name);
            assert!(address(function.library, function.name).is_some(), "{}", function.name);
        }
        assert_eq!((address("kernel32", "strlen"), address("user32", "MessageBoxA")), (None, None));
    }

    #[test]
    fn all_that_the_runtime_exports_can_be_imported() {
        let names = runtime::exports().map(|(name, _)| name).filter(|name| *name != "start" && *name != "writable");
        for name in names {
            assert!(FUNCTIONS.iter().any(|row| row.name == name && matches!(row.binding, Binding::Runtime)), "{name}");
        }
    }

    #[test]
    fn libraries_are_named_in_any_case() {
        assert_eq!(
            [library("KERNEL32.dll"), library("msvcrt"), library("USER32.dll"), library("")],
            [Some(0), Some(1), None, None]
        );
    }

    #[test]
    fn the_page_lists_every_function() {
        let page = include_str!("../../../docs/windows-programs.md");
        let missing: Vec<_> =
            FUNCTIONS.iter().map(|row| row.name).filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/windows-programs.md does not name {missing:?}");
    }
}
