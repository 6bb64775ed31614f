//! A vCPU's thread and its states: `Paused <-> Running -> Stopped`, starting paused.
//!
//! The control thread gives orders through [`VcpuHandle`]; the vCPU's own thread carries them out at instruction
//! boundaries: only there are its registers whole. An order is noted first and the vCPU kicked after, so none is lost.

use super::cpu::{Cpu, CpuError};
use super::handler::{ExitHandler, ExitObserver, StopReason};
use super::run_loop::{Control, run_loop};
use crate::kvm::kick;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

/// Something to do with the vCPU, on its own thread, at an instruction boundary.
pub type Task = Box<dyn FnOnce(&mut dyn Cpu) + Send>;

/// How a vCPU's thread reports its first entry.
pub type Entering = Box<dyn FnOnce() + Send>;

/// How a vCPU's thread reports its end.
pub type Ended = Box<dyn FnOnce(Result<StopReason, CpuError>, &mut dyn Cpu) + Send>;

/// The states of a vCPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Paused,
    Running,
    Stopped,
}

/// What the control thread asked for and the vCPU's thread has not done yet.
struct Orders {
    wanted: Wanted,
    tasks: Vec<Task>,
    ended: bool,
}

struct Shared {
    orders: Mutex<Orders>,
    changed: Condvar,
}

/// What a vCPU's thread is made of.
pub struct VcpuThread {
    /// The vCPU, not yet bound to a thread.
    pub cpu: Box<dyn Cpu + Send>,
    /// Who answers its exits.
    pub handler: Box<dyn ExitHandler>,
    /// Who watches them, if anybody.
    pub observer: Option<Box<dyn ExitObserver>>,
    /// Called once, on the thread, when the vCPU is about to enter the guest for the first time.
    pub entering: Entering,
    /// Told once, when the vCPU ends its run; the vCPU is still there to be asked.
    pub ended: Ended,
}

/// A vCPU's thread, as the control thread holds it.
pub struct VcpuHandle {
    /// None once it was joined.
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

impl VcpuThread {
    /// Starts the thread; the vCPU is paused.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn spawn(mut self) -> std::io::Result<VcpuHandle> {
        let shared = Arc::new(Shared {
            orders: Mutex::new(Orders { wanted: Wanted::Paused, tasks: Vec::new(), ended: false }),
            changed: Condvar::new(),
        });
        let mut orders = OrderControl(shared.clone());
        let thread = Builder::new().name(format!("vcpu{}", self.cpu.id())).spawn(move || {
            let cpu = &mut *self.cpu;
            cpu.bind_to_thread();
            let result = match orders.interrupted(cpu) {
                ControlFlow::Break(reason) => Ok(reason),
                ControlFlow::Continue(()) => {
                    (self.entering)();
                    let mut observer = self.observer.as_deref_mut().map(|observer| observer as &mut dyn ExitObserver);
                    if let Some(observer) = &mut observer {
                        observer.attached(cpu);
                    }
                    run_loop(cpu, &mut *self.handler, observer, &mut orders)
                }
            };
            orders.end();
            (self.ended)(result, cpu);
        })?;
        Ok(VcpuHandle { thread: Mutex::new(Some(thread)), shared })
    }
}

impl VcpuHandle {
    /// Lets the vCPU run.
    pub fn resume(&self) {
        self.order(|orders| orders.wanted = Wanted::Running);
    }

    /// Stops the vCPU at the next instruction boundary until [`VcpuHandle::resume`].
    pub fn pause(&self) {
        self.order(|orders| orders.wanted = Wanted::Paused);
        self.kick();
    }

    /// Ends the vCPU's run with [`StopReason::Told`].
    pub fn stop(&self) {
        let mut ended = false;
        self.order(|orders| {
            orders.wanted = Wanted::Stopped;
            ended = orders.ended;
        });
        if !ended {
            self.kick();
        }
    }

    /// Has `task` done on the vCPU's thread, running or paused, at the next instruction boundary. A vCPU that ended its
    /// run drops the task.
    pub fn send(&self, task: Task) {
        self.order(|orders| {
            if !orders.ended {
                orders.tasks.push(task);
            }
        });
        self.kick();
    }

    /// Pauses the vCPU at once, from its own thread: in the answer to an exit that leaves nothing to be completed. `noted` is
    /// called before tasks are done and the vCPU is let go on, which is when this returns.
    pub fn park(&self, cpu: &mut dyn Cpu, noted: impl FnOnce()) -> ControlFlow<StopReason> {
        self.order(|orders| orders.wanted = Wanted::Paused);
        noted();
        self.shared.obey(cpu)
    }

    /// Waits for the end of the vCPU's run. Only after [`VcpuHandle::stop`] or the vCPU's own end. The thread goes away by
    /// itself: it touches no device any more, and a process that ends need not wait for it.
    pub fn wait(&self) {
        let mut orders = lock(&self.shared);
        while !orders.ended {
            orders = self.shared.changed.wait(orders).expect("a panic ends the process");
        }
    }

    /// Ends the vCPU's run and waits for the end of its thread: nothing of the vCPU is left then. Not on that thread.
    pub fn join(&self) {
        self.stop();
        let thread = self.thread.lock().expect("a panic ends the process").take();
        if let Some(thread) = thread {
            // It panics where the process aborts for it, or where its embedder's observer did, who has been told.
            let _ = thread.join();
        }
    }

    fn kick(&self) {
        if let Some(thread) = &*self.thread.lock().expect("a panic ends the process") {
            kick::kick(thread);
        }
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = lock(&self.shared);
        if orders.wanted != Wanted::Stopped {
            change(&mut orders);
        }
        self.shared.changed.notify_all();
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Orders> {
    shared.orders.lock().expect("a panic ends the process")
}

/// The vCPU thread's side of the orders.
struct OrderControl(Arc<Shared>);

impl OrderControl {
    /// The run is over: tasks that came too late are dropped, and so are those to come.
    fn end(&self) {
        let mut orders = lock(&self.0);
        orders.ended = true;
        orders.tasks.clear();
        self.0.changed.notify_all();
    }
}

impl Control for OrderControl {
    fn interrupted(&mut self, cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        self.0.obey(cpu)
    }
}

impl Shared {
    /// Carries out what is wanted, on the vCPU's thread; returns when the vCPU may go on, or says why it may not.
    fn obey(&self, cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        let mut orders = lock(self);
        loop {
            for task in std::mem::take(&mut orders.tasks) {
                drop(orders);
                task(cpu);
                orders = lock(self);
            }
            match orders.wanted {
                Wanted::Running if orders.tasks.is_empty() => return ControlFlow::Continue(()),
                Wanted::Stopped => return ControlFlow::Break(StopReason::Told),
                Wanted::Running => {}
                Wanted::Paused if orders.tasks.is_empty() => {
                    orders = self.changed.wait(orders).expect("a panic ends the process");
                }
                Wanted::Paused => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::exit::{Exit, Reply};
    use crate::vcpu::scripted::ScriptedCpu;
    use std::sync::mpsc;

    struct Answer;

    impl ExitHandler for Answer {
        fn handle(&mut self, exit: Exit, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply> {
            if exit == Exit::Shutdown {
                ControlFlow::Break(StopReason::TripleFault)
            } else {
                ControlFlow::Continue(Reply::Resume)
            }
        }
    }

    fn spawn(exits: Vec<Exit>) -> (VcpuHandle, mpsc::Receiver<StopReason>) {
        kick::install_handler().unwrap();
        let (sender, ends) = mpsc::channel();
        let ended: Ended = Box::new(move |result, _| sender.send(result.unwrap()).unwrap());
        let cpu = Box::new(ScriptedCpu::new(exits));
        (
            VcpuThread { cpu, handler: Box::new(Answer), observer: None, entering: Box::new(|| ()), ended }
                .spawn()
                .unwrap(),
            ends,
        )
    }

    #[test]
    fn a_thread_starts_paused_does_tasks_runs_and_ends() {
        let (handle, ends) = spawn(vec![Exit::Halt, Exit::Shutdown]);
        let (sender, ids) = mpsc::channel();
        handle.send(Box::new(move |cpu| sender.send(cpu.id()).unwrap()));
        assert_eq!(ids.recv(), Ok(0));
        assert!(ends.try_recv().is_err(), "paused threads do not run");
        handle.resume();
        assert_eq!(ends.recv(), Ok(StopReason::TripleFault));
        handle.send(Box::new(|_| panic!("the vCPU is gone")));
        handle.wait();
        handle.join();
        handle.join();
        handle.pause();
    }

    #[test]
    fn a_paused_thread_can_be_told_to_stop() {
        let (handle, ends) = spawn(vec![]);
        handle.stop();
        assert_eq!(ends.recv(), Ok(StopReason::Told));
        handle.wait();
    }
}
