//! Host sides of character devices: where a serial port's bytes go to and come from.
//!
//! Output is gathered and written when a line ends, when the buffer is full, when the board polls (each millisecond of guest time)
//! and when the backend is dropped, so that it costs one system call per line and none of it is lost. Input comes
//! from another thread (or a test) through a bounded [`InputQueue`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

/// The most bytes that wait in a queue.
const INPUT_LIMIT: usize = 4096;
/// Gathered output is written at this size at the latest.
const OUTPUT_LIMIT: usize = 4096;

/// Tells the machine's thread that the host has something for a device; may be called from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug, Default)]
struct Input {
    bytes: VecDeque<u8>,
    closed: bool,
    announced: bool,
}

/// Bytes on their way from the host to the guest.
#[derive(Debug, Default)]
pub struct InputQueue(Mutex<Input>);

impl InputQueue {
    /// A queue whose owner calls [`Pc::input_arrived`](crate::pc::Pc::input_arrived), so that an idle board need not look.
    pub fn announced() -> Self {
        Self(Mutex::new(Input {
            announced: true,
            ..Input::default()
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Input> {
        // A producer that panicked leaves a queue that is still a queue.
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds what there is room for; gives how much that was.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut input = self.lock();
        let n = bytes
            .len()
            .min(INPUT_LIMIT - input.bytes.len().min(INPUT_LIMIT));
        input.bytes.extend(&bytes[..n]);
        n
    }

    /// What waits, to be put back when the machine goes back to where it waited.
    pub fn contents(&self) -> VecDeque<u8> {
        self.lock().bytes.clone()
    }

    /// See [`contents`](Self::contents).
    pub fn replace(&self, bytes: VecDeque<u8>) {
        self.lock().bytes = bytes;
    }

    /// Takes out at most so many bytes.
    pub fn drain(&self, most: usize) -> Vec<u8> {
        let mut input = self.lock();
        let n = most.min(input.bytes.len());
        input.bytes.drain(..n).collect()
    }

    /// How many bytes more it takes.
    pub fn room(&self) -> usize {
        INPUT_LIMIT - self.lock().bytes.len().min(INPUT_LIMIT)
    }

    /// No more will come.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Whether anything waits or can still come.
    pub fn is_open(&self) -> bool {
        let input = self.lock();
        !input.closed || !input.bytes.is_empty()
    }

    /// Whether the board must look again by itself.
    fn wants_polling(&self) -> bool {
        let input = self.lock();
        !input.bytes.is_empty() || !input.closed && !input.announced
    }

    fn take(&self, most: usize, mut f: impl FnMut(u8)) {
        let mut input = self.lock();
        let n = most.min(input.bytes.len());
        input.bytes.drain(..n).for_each(&mut f);
    }
}

/// A memory buffer as an output, for tests and for a host program that shows the text itself.
#[derive(Clone, Debug, Default)]
pub struct MemoryOutput(Arc<Mutex<Vec<u8>>>);

impl MemoryOutput {
    /// All that has been written.
    pub fn bytes(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

impl Write for MemoryOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Both directions of a character device.
pub struct CharBackend {
    output: Option<Box<dyn Write + Send>>,
    input: Option<Arc<InputQueue>>,
    buffer: Vec<u8>,
    error: Option<io::Error>,
}

impl CharBackend {
    /// Bytes go to `output`; none come.
    pub fn new(output: Box<dyn Write + Send>) -> Self {
        Self {
            output: Some(output),
            input: None,
            buffer: Vec::new(),
            error: None,
        }
    }

    /// Bytes go nowhere.
    pub fn null() -> Self {
        Self {
            output: None,
            input: None,
            buffer: Vec::new(),
            error: None,
        }
    }

    /// Standard output.
    pub fn stdout() -> Self {
        Self::new(Box::new(io::stdout()))
    }

    /// A file, created or emptied.
    pub fn file(path: &std::path::Path) -> io::Result<Self> {
        Ok(Self::new(Box::new(std::fs::File::create(path)?)))
    }

    /// A memory buffer, and the handle to look into it.
    pub fn memory() -> (Self, MemoryOutput) {
        let memory = MemoryOutput::default();
        (Self::new(Box::new(memory.clone())), memory)
    }

    /// Connects an input.
    pub fn with_input(mut self, input: Arc<InputQueue>) -> Self {
        self.input = Some(input);
        self
    }

    /// Whether something is connected (the modem lines say so).
    pub fn is_connected(&self) -> bool {
        self.output.is_some() || self.input.is_some()
    }

    /// Whether input can still come.
    pub fn input_open(&self) -> bool {
        self.input.as_ref().is_some_and(|i| i.is_open())
    }

    /// Whether input waits, or can come without anybody saying so.
    pub fn wants_polling(&self) -> bool {
        self.input.as_ref().is_some_and(|i| i.wants_polling())
    }

    /// Sends one byte.
    pub fn put(&mut self, byte: u8) {
        if self.output.is_none() {
            return;
        }
        self.buffer.push(byte);
        if byte == b'\n' || self.buffer.len() >= OUTPUT_LIMIT {
            self.flush();
        }
    }

    /// Writes what has been gathered. After an error (a closed pipe, a full disk) output is dropped.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if let Some(output) = &mut self.output
            && let Err(error) = output.write_all(&self.buffer).and_then(|()| output.flush())
        {
            self.error = Some(error);
            self.output = None;
        }
        self.buffer.clear();
    }

    /// The error that has ended the output, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Hands at most `most` waiting bytes to `f`.
    pub fn receive(&mut self, most: usize, f: impl FnMut(u8)) {
        if let Some(input) = &self.input {
            input.take(most, f);
        }
    }
}

impl Drop for CharBackend {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_at_a_time_and_the_rest_on_drop() {
        let (mut b, out) = CharBackend::memory();
        b"ab".iter().for_each(|&c| b.put(c));
        assert_eq!(out.bytes(), b"");
        b.put(b'\n');
        assert_eq!(out.bytes(), b"ab\n");
        b.put(b'c');
        drop(b);
        assert_eq!(out.bytes(), b"ab\nc");
    }

    #[test]
    fn input_is_bounded_and_ends() {
        let queue = Arc::new(InputQueue::default());
        let mut b = CharBackend::null().with_input(queue.clone());
        assert_eq!(queue.push(&[7; 5000]), INPUT_LIMIT);
        assert_eq!(queue.push(&[7]), 0);
        let mut got = 0;
        b.receive(16, |_| got += 1);
        assert_eq!(got, 16);
        queue.close();
        assert!(b.input_open(), "what waits is still given");
        b.receive(usize::MAX, |_| got += 1);
        assert!(!b.input_open());
        assert_eq!(got, INPUT_LIMIT);
    }

    #[test]
    fn announced_input_is_not_polled_for() {
        let queue = Arc::new(InputQueue::announced());
        let mut b = CharBackend::null().with_input(queue.clone());
        assert!(b.input_open() && !b.wants_polling());
        queue.push(b"x");
        assert!(b.wants_polling(), "the guest may not have room for it yet");
        b.receive(1, |_| {});
        assert!(!b.wants_polling());
        let polled = CharBackend::null().with_input(Arc::new(InputQueue::default()));
        assert!(polled.wants_polling());
    }

    #[test]
    fn a_closed_pipe_is_reported_once_and_then_silent() {
        let mut b = CharBackend::new(Box::new(Broken));
        b.put(b'\n');
        assert_eq!(
            b.take_error().map(|e| e.kind()),
            Some(io::ErrorKind::BrokenPipe)
        );
        b.put(b'\n');
        assert!(b.take_error().is_none());
    }
}
