//! A program that the agent runs: its input, output and errors go over the connection, each by itself, and its end at last.
//!
//! It leads a session of its own. When the connection ends before it, it and its group are killed. What it leaves running goes on
//! without a connection. docs/agent.md has its frames. Source: execvp(3).

use crate::calls::{self, GONE, INPUT, KILL, OUTPUT, Poll};
use crate::frames::{DATA_MAX, Frames, Gone};
use crate::syscalls::{self, Errno};

/// Most arguments, and most words of the environment.
const WORDS_MAX: usize = 512;
/// As much as a pipe that is ready takes at once without making us wait (`PIPE_BUF`, pipe(7)).
const PIPE_ATOMIC: usize = 4096;
/// Where programs are that are named without a slash, unless the environment has a PATH.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0";

/// What to run: strings with zero bytes behind them, in the request.
struct Request<'a> {
    directory: &'a [u8],
    program: &'a [u8],
    path: &'a [u8],
    /// Pointers, and a null pointer behind them.
    arguments: [usize; WORDS_MAX + 1],
    environment: [usize; WORDS_MAX + 1],
}

impl<'a> Request<'a> {
    /// The directory, words of the environment, an empty word, and arguments.
    fn parse(data: &'a [u8]) -> Option<Self> {
        if data.last() != Some(&0) {
            return None;
        }
        let mut words = data.split_inclusive(|byte| *byte == 0);
        let directory = words.next()?;
        let (mut arguments, mut environment) = ([0; WORDS_MAX + 1], [0; WORDS_MAX + 1]);
        let mut path = PATH;
        let mut places = environment[..WORDS_MAX].iter_mut();
        for word in words.by_ref().take_while(|word| word.len() > 1) {
            *places.next()? = word.as_ptr() as usize;
            if word.starts_with(b"PATH=") {
                path = word;
            }
        }
        let mut program = None;
        let mut places = arguments[..WORDS_MAX].iter_mut();
        for word in words {
            *places.next()? = word.as_ptr() as usize;
            program = program.or(Some(word));
        }
        Some(Self { directory, program: program?, path, arguments, environment })
    }

    /// Becomes the program; comes back with an error only.
    fn become_program(&self) -> Errno {
        const NOT_FOUND: Errno = Errno(2);
        const NO_DIRECTORY: Errno = Errno(20);
        if self.directory.len() > 1
            && let Err(error) = calls::change_directory(self.directory)
        {
            return error;
        }
        if self.program.contains(&b'/') {
            return calls::execute(self.program, &self.arguments, &self.environment);
        }
        // As execvp(3): what is there and cannot be executed is told rather than what is not there.
        let mut error = NOT_FOUND;
        for directory in self.path[b"PATH=".len()..self.path.len() - 1].split(|byte| *byte == b':') {
            let mut file = [0; PIPE_ATOMIC];
            let length = directory.len() + 1 + self.program.len();
            if length > file.len() {
                continue;
            }
            file[..directory.len()].copy_from_slice(directory);
            file[directory.len()] = b'/';
            file[directory.len() + 1..length].copy_from_slice(self.program);
            let tried = calls::execute(&file[..length], &self.arguments, &self.environment);
            if tried != NOT_FOUND && tried != NO_DIRECTORY {
                error = tried;
            }
        }
        error
    }
}

/// A program that runs: its process, a descriptor that is ready at its end, and our ends of its input, output and errors.
struct Running {
    process: usize,
    ended: usize,
    input: Option<usize>,
    outputs: [Option<usize>; 2],
    /// Input that its pipe has not taken: where in the last frame it begins.
    unsent: usize,
}

/// Runs what the last frame asks for.
pub fn run(frames: &mut Frames) -> Result<(), Gone> {
    let Some(request) = Request::parse(frames.data()) else {
        return frames.send(
            b'f',
            b"a directory, the environment, an empty word, and a program with its arguments were expected",
        );
    };
    let mut running = match start(&request) {
        Ok(running) => running,
        Err(error) => return frames.fail(error),
    };
    running.unsent = frames.data().len();
    let served = serve(frames, &mut running);
    if served.is_err() {
        calls::kill_group(running.process, KILL);
    }
    let files = [Some(running.ended), running.input, running.outputs[0], running.outputs[1]];
    files.into_iter().flatten().for_each(syscalls::close);
    let status = calls::wait(running.process);
    served?;
    match status {
        // wait(2): the low seven bits name a signal, the second byte is what the program passed to exit.
        Ok(status) if status & 0x7f == 0 => frames.send(b'x', &(status >> 8 & 0xff).to_le_bytes()),
        Ok(status) => frames.send(b's', &(status & 0x7f).to_le_bytes()),
        Err(error) => frames.fail(error),
    }
}

/// Starts the program.
fn start(request: &Request) -> Result<Running, Errno> {
    // Whatever fails before the end leaves descriptors behind, and this process ends with its connection.
    let [input, output, errors] = [calls::pipe()?, calls::pipe()?, calls::pipe()?];
    let [told, tell] = calls::pipe()?;
    let process = calls::fork()?;
    if process == 0 {
        calls::new_session();
        let placed =
            [input[0], output[1], errors[1]].iter().zip(0..).try_for_each(|(file, to)| calls::place(*file, to));
        let error = placed.err().unwrap_or_else(|| request.become_program());
        let _ = syscalls::write_all(tell, &[error.0 as u8]);
        syscalls::exit(syscalls::NOT_STARTED)
    }
    [input[0], output[1], errors[1], tell].into_iter().for_each(syscalls::close);
    let mut error = [0];
    // A program that starts closes the pipe without a word.
    let failed = syscalls::read(told, &mut error) == Ok(1);
    syscalls::close(told);
    let ended = if failed { Err(Errno(error[0].into())) } else { calls::process_file(process) };
    match ended {
        Ok(ended) => {
            let outputs = [Some(output[0]), Some(errors[0])];
            Ok(Running { process, ended, input: Some(input[1]), outputs, unsent: 0 })
        }
        Err(error) => {
            [input[1], output[0], errors[0]].into_iter().for_each(syscalls::close);
            let _ = calls::wait(process);
            Err(error)
        }
    }
}

/// Carries bytes until the program has ended and what it wrote is sent.
fn serve(frames: &mut Frames, running: &mut Running) -> Result<(), Gone> {
    let mut has_ended = false;
    loop {
        let waits_for_pipe = running.input.is_some() && running.unsent < frames.data().len();
        let [output, errors] = running.outputs;
        let mut files = [
            // While the program does not read, only the end of the connection counts.
            Poll::new((!has_ended).then_some(frames.file()), if waits_for_pipe { GONE } else { INPUT }),
            Poll::new(running.input.filter(|_| waits_for_pipe && !has_ended), OUTPUT),
            Poll::new(output, INPUT),
            Poll::new(errors, INPUT),
            Poll::new((!has_ended).then_some(running.ended), INPUT),
        ];
        // After its end only what is there already is taken: another process may hold the pipes.
        let any = calls::poll(&mut files, if has_ended { 0 } else { -1 });
        if has_ended && !any {
            return Ok(());
        }
        for (index, kind) in [(0, b'o'), (1, b'e')] {
            if files[2 + index].found != 0 {
                forward(frames, &mut running.outputs[index], kind)?;
            }
        }
        if files[1].found != 0 {
            feed(frames, running);
        }
        match files[0].found {
            0 => {}
            _ if waits_for_pipe => return Err(Gone),
            _ => take(frames, running)?,
        }
        has_ended |= files[4].found != 0;
    }
}

/// Sends what the program wrote.
fn forward(frames: &Frames, file: &mut Option<usize>, kind: u8) -> Result<(), Gone> {
    let mut data = [0; DATA_MAX];
    let Some(open) = *file else { return Ok(()) };
    match syscalls::read(open, &mut data) {
        Ok(count @ 1..) => frames.send(kind, &data[..count]),
        Ok(0) | Err(_) => {
            syscalls::close(open);
            *file = None;
            Ok(())
        }
    }
}

/// Gives the program the next part of its input. One that does not want it loses it.
fn feed(frames: &Frames, running: &mut Running) {
    let Some(input) = running.input else { return };
    let rest = &frames.data()[running.unsent..];
    match calls::write(input, &rest[..rest.len().min(PIPE_ATOMIC)]) {
        Ok(count) => running.unsent += count,
        Err(_) => end_input(running),
    }
}

fn end_input(running: &mut Running) {
    if let Some(input) = running.input.take() {
        syscalls::close(input);
    }
}

/// Takes a frame from the host while the program runs.
fn take(frames: &mut Frames, running: &mut Running) -> Result<(), Gone> {
    let kind = frames.receive()?;
    running.unsent = frames.data().len();
    match (kind, frames.data()) {
        (b'i', []) => end_input(running),
        (b'i', _) => running.unsent = 0,
        (b'K', &[signal, 0, 0, 0]) => calls::kill_group(running.process, signal.into()),
        _ => {
            let _ = frames.send(b'f', b"a program runs: only its input and signals can be sent");
            return Err(Gone);
        }
    }
    Ok(())
}
