//! The compiler's thread: regions in, units out, in order.
//!
//! The guest never waits for it, and whatever happens to it (slow, or gone with a panic) costs only speed: regions that do
//! not come back stay interpreted.

use crate::codegen::CompileError;
use crate::region::Region;
use crate::unit::Compiled;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Regions that may wait.
///
/// Few: what is hotter asks more often, and so is likelier to be there when there is room.
const QUEUE: usize = 3;

/// The thread's nice value.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// A region and what became of it.
pub struct Finished {
    pub region: Region,
    pub compiled: Result<Compiled, CompileError>,
}

/// What the thread does with a region: [`Compiler::compile`](crate::codegen::Compiler::compile), or in tests something slower.
pub type Compile = Box<dyn FnMut(&Region) -> Result<Compiled, CompileError> + Send>;

/// The way to the thread and back.
pub struct Background {
    jobs: Option<SyncSender<Region>>,
    done: Receiver<Finished>,
    ready: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    /// What waits is not wanted any more.
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Starts the thread.
    pub fn new(mut compile: Compile) -> Result<Self, CompileError> {
        let (jobs, inbox) = sync_channel::<Region>(QUEUE);
        let (outbox, done) = sync_channel(QUEUE + 2);
        let ready = Arc::new(AtomicBool::new(false));
        let flag = ready.clone();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = waiting.clone();
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let thread = std::thread::Builder::new()
            .name("translator".to_owned())
            .spawn(move || {
                // Where the host has one core to give, it is the guest's.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::setpriority_process(None, NICE);
                for region in inbox {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let compiled = compile(&region);
                    if outbox.send(Finished { region, compiled }).is_err() {
                        break;
                    }
                    left.fetch_sub(1, Relaxed);
                    flag.store(true, Relaxed);
                }
            })
            .map_err(|e| CompileError::Host(e.to_string()))?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            ready,
            waiting,
            over,
            thread: Some(thread),
        })
    }

    /// Whether there is room for a region.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Relaxed) < QUEUE
    }

    /// Whether it has something to do.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Hands a region over; gives it back when the queue is full or the thread is gone.
    pub fn submit(&self, region: Region) -> Result<(), Region> {
        match &self.jobs {
            None => Err(region),
            Some(jobs) => {
                jobs.try_send(region).map_err(|e| match e {
                    TrySendError::Full(r) | TrySendError::Disconnected(r) => r,
                })?;
                self.waiting.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }

    /// Whether something may have come back.
    #[inline]
    pub fn ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// What has come back.
    pub fn take(&self) -> Vec<Finished> {
        self.ready.store(false, Relaxed);
        self.done.try_iter().collect()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.jobs = None;
        self.over.store(true, Relaxed);
        // It may wait for room in its outbox.
        while self.thread.as_ref().is_some_and(|t| !t.is_finished()) {
            for _ in self.done.try_iter() {}
            std::thread::yield_now();
        }
        if let Some(t) = self.thread.take() {
            // A panic over there was printed over there.
            let _ = t.join();
        }
    }
}
