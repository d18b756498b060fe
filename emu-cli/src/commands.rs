//! What other threads want of the running machine: the monitor, a screen with a keyboard, a network client.
//!
//! They post closures; the run's loop executes them between slices, where the vCPU is at an instruction boundary, and is woken
//! if it sleeps or is paused. Nothing posted runs after the loop has ended: [`Commands::close`] drops it, and whoever waits
//! for an answer gets `None`.

use crate::signals::Control;
use crate::vm::Vm;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

/// Something to do with the machine.
pub type Command = Box<dyn FnOnce(&mut Vm) + Send>;

#[derive(Default)]
struct Queue {
    waiting: Vec<Command>,
    closed: bool,
}

/// The way to the machine for other threads.
pub struct Commands {
    queue: Mutex<Queue>,
    control: Arc<Control>,
}

impl Commands {
    pub fn new(control: Arc<Control>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            control,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Has something done soon.
    pub fn post(&self, command: impl FnOnce(&mut Vm) + Send + 'static) {
        let mut queue = self.lock();
        if !queue.closed {
            queue.waiting.push(Box::new(command));
            drop(queue);
            self.control.wake();
        }
    }

    /// Has something done and waits for its result; `None`: the run has ended.
    pub fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Vm) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, result) = mpsc::sync_channel(1);
        self.post(move |vm| {
            // Somebody who does not wait any more is no reason to stop.
            let _ = answer.send(command(vm));
        });
        result.recv().ok()
    }

    /// Ends the run for the monitor's user.
    pub fn quit(&self) {
        self.control.quit_by_monitor();
    }

    /// Does what has been posted, in order.
    pub fn serve(&self, vm: &mut Vm) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        waiting.into_iter().for_each(|command| command(vm));
    }

    /// The run has ended.
    pub fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.waiting.clear();
    }
}
