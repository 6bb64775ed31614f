//! Programs under `hostel exec`, next to the same programs run natively: same output, same status.
//!
//! Needs KVM, busybox-static and a C compiler.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{PROGRAM, finish, hostel};
use common::kvm;
use common::programs::{alike, busybox, static_c};
use common::scratch::Scratch;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

#[test]
fn busybox_does_what_it_does_natively() {
    if !kvm::available() {
        return;
    }
    let Some(busybox) = busybox() else { return };
    let text: String = (0..5000).map(|line| format!("{} line {line}\n", line * 7919 % 5003)).collect();
    for (words, input) in [
        (&["sh", "-c", "echo $((6 * 7)); for i in a b c; do echo $i; done; exit 3"][..], ""),
        (&["ls", "-lR", "/etc"], ""),
        (&["ls", "/does/not/exist"], ""),
        (&["sort", "-n"], &text),
        (&["awk", "{ sum += $1 } END { print sum, sum / NR }"], &text),
        (&["gzip", "-c"], &text),
        (&["sha256sum", PROGRAM], ""),
        (&["head", "-c", "100000", "/dev/zero"], ""),
        (&["pwd"], ""),
        (&["id"], ""),
        (&["stat", "/etc/passwd", "/dev/null"], ""),
    ] {
        alike(&[&[busybox], words].concat(), input);
    }
}

#[test]
fn scripts_with_pipes_and_processes_do_what_they_do_natively() {
    if !kvm::available() {
        return;
    }
    let Some(busybox) = busybox() else { return };
    let script = "echo a | cat; (exit 5); echo $?; x=$(echo sub | tr a-z A-Z); echo $x; seq 300 | sort -r | head -n 2; \
        for i in 1 2 3; do echo $i | sed s/^/n/; done; false | true; exit 4";
    alike(&[busybox, "sh", "-c", script], "");
    alike(&[busybox, "sh", "-c", "kill -TERM $$"], "");
    alike(&[busybox, "sh", "-c", "yes | head -n 3"], "");
}

#[test]
fn dynamic_programs_run_through_their_interpreter() {
    if !kvm::available() || !std::path::Path::new("/lib64/ld-linux-x86-64.so.2").exists() {
        return;
    }
    for words in
        [&["/bin/ls", "-l", "/etc/apt", "/usr"][..], &["/bin/bash", "-c", "echo $((1 << 40)) | tr 0-9 a-j; exit 9"]]
    {
        if std::path::Path::new(words[0]).exists() {
            alike(words, "");
        }
    }
}

const THREADS: &str = r#"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long sum;
static double half = 0.5;
static volatile int *shared;
static void *add(void *argument) {
    for (int round = 0; round < 2000; round++) {
        pthread_mutex_lock(&lock);
        sum += (long)argument;
        pthread_mutex_unlock(&lock);
    }
    return argument;
}
static void *rest(void *argument) { pause(); for (;;) sleep(1000); }
int main(int argc, char **argv) {
    pthread_t threads[100];
    if (argc > 1) {
        int made = 0;
        while (made < 100 && pthread_create(&threads[made], 0, rest, 0) == 0) made++;
        printf("%d\n", made);
        fflush(stdout);
        _exit(3);
    }
    for (long index = 0; index < 8; index++) pthread_create(&threads[index], 0, add, (void *)(index + 1));
    for (int index = 0; index < 8; index++) pthread_join(threads[index], 0);
    printf("%ld\n", sum);
    static char page[40000];
    memset(page, 'p', sizeof page);
    shared = mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double before = half * 3;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        memset(page, 'c', sizeof page);
        *shared = before == 1.5 ? 7 : 8;
        _exit(page[39999] == 'c' ? 12 : 13);
    }
    int status;
    waitpid(child, &status, 0);
    printf("%d %d %c %c %.2f\n", WEXITSTATUS(status), *shared, page[0], page[39999], before);
    for (int index = 0; index < 200; index++) {
        child = fork();
        if (child < 0) { printf("fork %s\n", strerror(errno)); return 1; }
        if (child == 0) { page[index * 100] = 1; _exit(index); }
        waitpid(child, &status, 0);
        if (WEXITSTATUS(status) != (index & 255) || page[index * 100] != 'p') return 2;
    }
    printf("done\n");
    return 0;
}
"#;

#[test]
fn threads_and_processes_share_what_they_should_and_are_bounded() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("process-threads");
    let Some(program) = static_c(&scratch, "threads", &["-static", "-pthread"], THREADS) else { return };
    let run = alike(&[&program], "");
    assert_eq!(run.stdout, "72000\n12 7 p p 1.50\ndone\n");
    let many = hostel(&["exec", "--", &program, "many"], "");
    assert_eq!((many.stdout.as_str(), many.status), ("63\n", 3), "{}", many.stderr);
}

#[test]
fn handlers_of_signals_run_as_they_do_natively() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("process-signals");
    let source = include_str!("process/signals.c");
    let Some(program) = static_c(&scratch, "signals", &["-static", "-pthread", "-lm"], source) else { return };
    let run = alike(&[&program], "");
    assert!(run.stdout.ends_with("forged and caught: 11 128\n"), "{}", run.stdout);
    let traced = hostel(&["exec", "--trace", "--", &program, "1"], "");
    for line in [
        "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x8} ---",
        "--- SIGTRAP {si_signo=SIGTRAP, si_code=SI_KERNEL} ---",
        "rt_sigreturn()",
    ] {
        assert!(traced.stderr.contains(line), "{line}: {}", traced.stderr);
    }
}

#[test]
fn programs_that_live_by_signals_do_what_they_do_natively() {
    if !kvm::available() {
        return;
    }
    let trap = "trap 'echo got' TERM; kill -TERM $$; echo on; (sleep 0.1; kill -USR1 $$; sleep 0.2) & trap 'echo told' USR1; wait; echo $?; exit 5";
    let python = "import signal, time\n\
        signal.signal(signal.SIGALRM, lambda *_: print('rang'))\n\
        signal.setitimer(signal.ITIMER_REAL, 0.05)\n\
        signal.pause()\n\
        def late(*_): raise TimeoutError\n\
        signal.signal(signal.SIGALRM, late)\n\
        signal.setitimer(signal.ITIMER_REAL, 0.05)\n\
        try:\n    time.sleep(5)\nexcept TimeoutError:\n    print('late')\n";
    for words in [
        &["/bin/bash", "-c", trap][..],
        &["/bin/dash", "-c", trap],
        &["/bin/busybox", "sh", "-c", trap],
        &["/bin/busybox", "timeout", "1", "/bin/busybox", "sleep", "5"],
        &["/usr/bin/timeout", "0.2", "/usr/bin/sleep", "5"],
        &["/usr/bin/timeout", "-s", "INT", "5", "/usr/bin/sleep", "0.1"],
        &["/usr/bin/python3", "-c", python],
    ] {
        if std::path::Path::new(words[0]).exists() {
            let run = alike(words, "");
            assert!(run.elapsed.as_secs() < 5, "{words:?}");
        }
    }
}

#[test]
fn ctrl_c_goes_to_a_program_that_handles_it_and_the_second_ends_all() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("process-interrupt");
    let source = r#"
    #include <signal.h>
    #include <unistd.h>
    static void got(int signal) { write(1, "got\n", 4); }
    int main(int argc, char **argv) {
        if (argc > 1) signal(SIGINT, got);
        write(1, "ready\n", 6);
        for (;;) pause();
    }"#;
    let Some(program) = static_c(&scratch, "interrupt", &["-static"], source) else { return };
    for (words, lines) in [(&["handled"][..], &["ready\n", "got\n"][..]), (&[], &["ready\n"])] {
        let mut command = Command::new(PROGRAM);
        let mut child = command.args(["exec", "--", &program]).args(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        for expected in lines {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            assert_eq!(line, *expected);
            let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            assert!(killed.success());
        }
        assert_eq!(child.wait().unwrap().signal(), Some(2), "{words:?}");
    }
}

/// Random calls of one seed, and how many.
const SEEDS: std::ops::Range<u32> = 1..13;
const CALLS: &str = "400";

#[test]
fn random_calls_give_what_they_give_natively() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("process-calls");
    let Some(program) = static_c(&scratch, "calls", &["-static"], include_str!("process/calls.c")) else { return };
    for seed in SEEDS {
        let [native, hosted] = ["native", "hosted"].map(|side| {
            let place = scratch.join(&format!("{side}{seed}"));
            std::fs::create_dir(&place).unwrap();
            let mut command = Command::new("sh");
            let program =
                if side == "native" { &program } else { &format!("{PROGRAM} exec --allow-write -- {program}") };
            let script = format!("ulimit -n 1024; cd {place} && exec {program} {seed} {CALLS}");
            command.args(["-c", &script]);
            finish(command, "")
        });
        let differs = native.stdout.lines().zip(hosted.stdout.lines()).find(|(native, hosted)| native != hosted);
        assert_eq!((differs, native.status), (None, hosted.status), "seed {seed}: {}", hosted.stderr);
        assert_eq!(native.stdout.len(), hosted.stdout.len(), "seed {seed}");
    }
}

const FAULTS: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
volatile int zero;
__attribute__((noinline)) int deep(int left) {
    volatile char page[4096];
    page[left & 4095] = 1;
    return left ? deep(left - 1) + page[9] : 0;
}
volatile double number = 1.5;
int main(int argc, char **argv) {
    if (number * 2 != 3.0 || argc != 2) return 99;
    switch (argv[1][0]) {
    case 'r': return *(volatile int *)8;
    case 'w': *(volatile int *)0xdeadbeef000 = 1; return 0;
    case 'k': return *(volatile int *)0xffff800000000000;
    case 'n': return *(volatile int *)0x8000000000000000;
    case 'x': { char *page = mmap(0, 4096, 3, 0x22, -1, 0); *page = 0xc3; ((void (*)(void))page)(); return 0; }
    case 's': ((volatile char *)"text")[0] = 1; return 0;
    case 'd': return 100 * argc / zero;
    case 'u': __asm__("ud2"); return 0;
    case 'h': __asm__("hlt"); return 0;
    case 'o': __asm__("outb %%al, $0x10" ::: "memory"); return 0;
    case 't': __asm__("int3"); return 0;
    case 'a': abort();
    case 'S': return deep(40000000);
    }
    return 7;
}
"#;

#[test]
fn what_a_program_does_wrong_ends_it_with_the_right_signal() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("process-faults");
    for (name, flags) in [("fixed", &["-static"][..]), ("movable", &["-static-pie"])] {
        let Some(program) = static_c(&scratch, name, flags, FAULTS) else { return };
        for what in ["r", "w", "k", "n", "x", "s", "d", "u", "h", "o", "t", "a", "S", "-"] {
            let run = alike(&[&program, what], "");
            assert!((run.status >= 128) == (what != "-"), "{name} {what}: {}", run.stderr);
        }
    }
}

#[test]
fn files_are_read_only_below_the_root_until_writing_is_allowed() {
    if !kvm::available() {
        return;
    }
    let Some(busybox) = busybox() else { return };
    let scratch = Scratch::new("process-root");
    std::fs::copy(busybox, scratch.join("busybox")).unwrap();
    scratch.file("secret", b"inside\n");
    let root = scratch.path().to_str().unwrap();
    let run = hostel(&["exec", "--root", root, "--", "/busybox", "cat", "/../../secret"], "");
    assert_eq!((run.stdout.as_str(), run.status), ("inside\n", 0), "{}", run.stderr);
    let write = ["/busybox", "sh", "-c", "echo new >/file && echo done"];
    let refused = hostel(&[&["exec", "--root", root, "--"][..], &write].concat(), "");
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.stderr);
    let done = hostel(&[&["exec", "--root", root, "--allow-write", "--"][..], &write].concat(), "");
    assert_eq!(
        (done.stdout.as_str(), std::fs::read_to_string(scratch.join("file")).unwrap().as_str()),
        ("done\n", "new\n")
    );
}

#[test]
fn calls_are_traced_denied_and_counted() {
    if !kvm::available() {
        return;
    }
    let Some(busybox) = busybox() else { return };
    let scratch = Scratch::new("process-traced");
    let file = scratch.file("file", b"content");
    let traced = hostel(&["exec", "--trace", "--", busybox, "cat", &file], "");
    let opened = format!("openat(AT_FDCWD, \"{file}\", O_RDONLY");
    for line in [&opened, "exit_group(0)", "+++ exited with 0 +++"] {
        assert!(
            traced.stderr.contains(line) || traced.stderr.contains(&line.replace("openat(AT_FDCWD, ", "open(")),
            "{}",
            traced.stderr
        );
    }
    let denied = hostel(&["exec", "--deny", "getuid,openat,open", "--", busybox, "cat", &file], "");
    assert!(denied.stderr.contains("Operation not permitted") && denied.status == 1, "{}", denied.stderr);
    let unknown = hostel(&["exec", "--", busybox, "chroot", "/", "/bin/true"], "");
    assert_eq!(
        unknown.stderr.lines().last(),
        Some("hostel: system calls that are not supported and got ENOSYS: chroot")
    );
    assert_eq!(hostel(&["exec", "--deny", "nothing", "--", busybox], "").status, 2);
}

#[test]
fn a_run_has_bounds_of_time_and_memory() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("process-bounds");
    let source = r#"
    #include <stdlib.h>
    #include <string.h>
    int main(int argc, char **argv) {
        if (argc > 1) for (;;);
        for (;;) { char *more = malloc(1 << 20); if (!more) return 5; memset(more, 1, 1 << 20); }
    }"#;
    let Some(program) = static_c(&scratch, "bounds", &["-static"], source) else { return };
    let hungry = hostel(&["exec", "--mem", "16M", "--", &program], "");
    assert_eq!(hungry.status, 137, "{}", hungry.stderr);
    assert!(hungry.stderr.contains("no memory is left"), "{}", hungry.stderr);
    let endless = hostel(&["exec", "--timeout", "300ms", "--", &program, "loop"], "");
    assert_eq!(endless.status, 124, "{}", endless.stderr);
}

#[test]
fn a_program_that_is_not_there_or_none_is_told_by_the_status() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("process-none");
    let text = scratch.file("text", b"no program");
    let run = |arguments: &[&str]| hostel(&[&["exec"], arguments].concat(), "").status;
    assert_eq!(run(&["--", "/does/not/exist"]), 127);
    assert_eq!(run(&["/does/not/exist", "--mem", "none"]), 127, "behind the program all is the program's");
    assert_eq!(run(&["--", "no-such-program-anywhere"]), 127);
    assert_eq!(run(&["--", &text]), 126);
    assert_eq!(run(&["--", "/"]), 126);
    assert_eq!(run(&["--root", "/does/not/exist", "--", "/x"]), 125);
    assert_eq!(run(&["--mem", "1M", "--", "/x"]), 2);
}
