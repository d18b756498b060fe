//! The cable: two bounded queues of frames, wake-ups, link state, counters.
//!
//! Either end is told when a frame comes to a queue that it has found empty, and when there is room in one that has refused a
//! frame; so a busy link costs no wake-ups. Buffers go round: what the receiver hands back with [`End::recycle`], the sender gets from
//! [`End::buffer`], and neither takes a lock for it.

use super::{Accepts, Frame, MAX_FRAME, Waker, offload};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

/// The most frames that wait in one direction.
pub const QUEUE_FRAMES: usize = 1024;
/// A queue that holds as many bytes takes no further frame.
pub const QUEUE_BYTES: usize = 4 << 20;
/// The most buffers that are kept for another frame, in each place.
const SPARE: usize = 64;

/// What has gone one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub frames: u64,
    pub bytes: u64,
    /// Too long, too short, or sent while the link was down.
    pub dropped: u64,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    /// The sender was refused and has not been told of room yet.
    refused: bool,
    /// The receiver has had a frame since it last found nothing.
    busy: bool,
    closed: bool,
    counters: Counters,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.frames.len() >= QUEUE_FRAMES || self.bytes >= QUEUE_BYTES
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += frame.data.len();
        self.counters.frames += 1;
        self.counters.bytes += frame.data.len() as u64;
        self.frames.push_back(frame);
    }
}

/// One side's part of the link: the queue that it reads, how to wake it, what it takes.
#[derive(Default)]
struct Side {
    queue: Mutex<Queue>,
    waker: Mutex<Option<Waker>>,
    accepts: Mutex<Accepts>,
    /// What does not fit into the queue is dropped, and the sender is not told.
    lossy: AtomicBool,
}

impl Side {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker();
        }
    }
}

/// A link whose user has panicked is still a link.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A cable, as the monitor sees it.
pub struct Link {
    id: String,
    up: AtomicBool,
    sides: [Side; 2],
}

impl Link {
    /// A link that is up. The first end is for the guest's NIC, the second for the back end; they are alike.
    pub fn pair(id: &str) -> (End, End) {
        let link = Arc::new(Self {
            id: id.into(),
            up: AtomicBool::new(true),
            sides: Default::default(),
        });
        (End::new(link.clone(), 0), End::new(link, 1))
    }

    /// `id=` of `--netdev`.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn is_up(&self) -> bool {
        self.up.load(SeqCst)
    }

    /// Plugs the cable in or out; both ends are woken to see it.
    pub fn set_up(&self, up: bool) {
        if self.up.swap(up, SeqCst) != up {
            self.sides.iter().for_each(Side::wake);
        }
    }

    /// [`End::set_waker`] for the NIC's end, which is inside the NIC.
    pub fn set_nic_waker(&self, waker: Waker) {
        *lock(&self.sides[0].waker) = Some(waker);
    }

    /// What the guest has received, and what it has sent.
    pub fn counters(&self) -> [Counters; 2] {
        [0, 1].map(|side| self.sides[side].queue().counters)
    }
}

/// One end of a link.
pub struct End {
    link: Arc<Link>,
    side: usize,
    /// Buffers for frames to send, and those of received frames.
    fresh: Vec<Vec<u8>>,
    used: Vec<Vec<u8>>,
}

impl End {
    fn new(link: Arc<Link>, side: usize) -> Self {
        Self {
            link,
            side,
            fresh: Vec::new(),
            used: Vec::new(),
        }
    }

    fn own(&self) -> &Side {
        &self.link.sides[self.side]
    }

    fn peer(&self) -> &Side {
        &self.link.sides[1 - self.side]
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Whom to call when a frame comes, when there is room again, and when the link goes up or down. From any thread.
    pub fn set_waker(&self, waker: Waker) {
        *lock(&self.own().waker) = Some(waker);
    }

    /// What this end can be left to do.
    pub fn set_accepts(&self, accepts: Accepts) {
        *lock(&self.own().accepts) = accepts;
    }

    /// What the other end can be left to do. A frame that asks for more may be sent all the same.
    pub fn peer_accepts(&self) -> Accepts {
        *lock(&self.peer().accepts)
    }

    /// From now on frames that this end has no room for are lost: whoever sends them need not wait for anybody.
    pub fn set_lossy(&self) {
        self.own().lossy.store(true, SeqCst);
    }

    /// What was sent and waits at the other end.
    pub fn sent(&self) -> Vec<Frame> {
        self.peer().queue().frames.iter().cloned().collect()
    }

    /// Has these wait at the other end, and nothing else.
    pub fn put_sent(&self, frames: Vec<Frame>) {
        let mut queue = self.peer().queue();
        queue.bytes = frames.iter().map(|f| f.data.len()).sum();
        queue.frames = frames.into();
    }

    /// An empty buffer, perhaps with room in it.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.fresh.pop().unwrap_or_default()
    }

    /// Gives the buffer of a received frame back.
    pub fn recycle(&mut self, mut data: Vec<u8>) {
        if self.used.len() < SPARE {
            data.clear();
            self.used.push(data);
        }
    }

    /// Whether a frame would be taken now. If not, the waker will be called when it is worth another try.
    pub fn has_room(&self) -> bool {
        let mut queue = self.peer().queue();
        let full = queue.is_full() && !queue.closed && !self.peer().lossy.load(SeqCst);
        queue.refused |= full;
        !full
    }

    /// Sends a frame, or gives it back if the queue is full. Frames of impossible lengths, and all frames on a link that is
    /// down or has nobody at the other end, are dropped.
    pub fn send(&mut self, mut frame: Frame) -> Result<(), Frame> {
        let accepts = self.peer_accepts();
        let fits = (super::ETHERNET_HEADER..=MAX_FRAME).contains(&frame.data.len());
        let up = self.is_up();
        let mut pieces = Vec::new();
        if fits && up {
            offload::reduce(&mut frame, accepts, &mut self.fresh, &mut pieces);
        }
        let wake = {
            let mut queue = self.link.sides[1 - self.side].queue();
            if !fits || !up || queue.closed {
                queue.counters.dropped += 1;
                return Ok(());
            }
            if queue.is_full() && self.peer().lossy.load(SeqCst) {
                queue.counters.dropped += 1;
                return Ok(());
            }
            if queue.is_full() {
                queue.refused = true;
                return Err(frame);
            }
            if self.fresh.is_empty() {
                std::mem::swap(&mut self.fresh, &mut queue.spare);
            }
            if pieces.is_empty() {
                queue.push(frame);
            } else {
                pieces.into_iter().for_each(|piece| queue.push(piece));
            }
            !std::mem::replace(&mut queue.busy, true)
        };
        if wake {
            self.peer().wake();
        }
        Ok(())
    }

    /// The next frame from the other end.
    pub fn receive(&mut self) -> Option<Frame> {
        let (frame, room) = {
            let mut queue = self.link.sides[self.side].queue();
            if queue.spare.len() + self.used.len() <= SPARE {
                queue.spare.append(&mut self.used);
            }
            let frame = queue.frames.pop_front();
            match &frame {
                Some(frame) => queue.bytes -= frame.data.len(),
                None => queue.busy = false,
            }
            let room = queue.refused
                && queue.frames.len() <= QUEUE_FRAMES / 2
                && queue.bytes <= QUEUE_BYTES / 2;
            queue.refused &= !room;
            (frame, room)
        };
        if room {
            self.peer().wake();
        }
        // What was under way when the cable was pulled is lost.
        match frame {
            Some(frame) if !self.is_up() => {
                self.recycle(frame.data);
                self.receive()
            }
            frame => frame,
        }
    }

    /// Whether a frame waits.
    pub fn has_frame(&self) -> bool {
        !self.own().queue().frames.is_empty()
    }

    /// Whether there is nobody at the other end any more.
    pub fn is_closed(&self) -> bool {
        self.own().queue().closed
    }

    /// Forgets what waits (the NIC was reset).
    pub fn clear(&mut self) {
        while let Some(frame) = self.receive() {
            self.recycle(frame.data);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for side in &self.link.sides {
            let mut queue = side.queue();
            queue.closed = true;
            queue.frames.clear();
            queue.bytes = 0;
        }
        self.peer().wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn counted(end: &End) -> Arc<AtomicUsize> {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        end.set_waker(Arc::new(move || {
            counter.fetch_add(1, SeqCst);
        }));
        calls
    }

    fn frame(n: u8) -> Frame {
        vec![n; 60].into()
    }

    #[test]
    fn frames_arrive_in_order_and_wake_once() {
        let (mut nic, mut host) = Link::pair("n0");
        let calls = counted(&host);
        for n in 0..3 {
            nic.send(frame(n)).unwrap();
        }
        assert_eq!(calls.load(SeqCst), 1);
        for n in 0..3 {
            assert_eq!(host.receive().unwrap().data[0], n);
        }
        assert!(host.receive().is_none());
        nic.send(frame(3)).unwrap();
        assert_eq!(calls.load(SeqCst), 2);
        assert_eq!(nic.link().counters()[1].frames, 4);
    }

    #[test]
    fn a_full_queue_refuses_and_calls_when_there_is_room() {
        let (mut nic, mut host) = Link::pair("n0");
        let calls = counted(&nic);
        let mut sent = 0;
        while nic.send(frame(sent as u8)).is_ok() {
            sent += 1;
        }
        assert_eq!(sent, QUEUE_FRAMES);
        assert!(!nic.has_room());
        for _ in 0..QUEUE_FRAMES / 2 - 1 {
            host.receive().unwrap();
        }
        assert_eq!(calls.load(SeqCst), 0);
        host.receive().unwrap();
        assert_eq!(calls.load(SeqCst), 1);
        assert!(nic.has_room());
        let big = vec![0; MAX_FRAME];
        while nic.send(big.clone().into()).is_ok() {
            sent += 1;
        }
        assert!(sent < QUEUE_FRAMES + QUEUE_BYTES / MAX_FRAME + 2);
    }

    #[test]
    fn a_pulled_cable_loses_frames() {
        let (mut nic, mut host) = Link::pair("n0");
        let calls = counted(&host);
        nic.send(frame(1)).unwrap();
        nic.link().set_up(false);
        assert_eq!(calls.load(SeqCst), 2);
        assert!(host.receive().is_none());
        nic.send(frame(2)).unwrap();
        nic.link().set_up(true);
        assert!(host.receive().is_none());
        nic.send(frame(3)).unwrap();
        assert_eq!(host.receive().unwrap().data[0], 3);
        nic.send(vec![0; 13].into()).unwrap();
        nic.send(vec![0; MAX_FRAME + 1].into()).unwrap();
        assert!(host.receive().is_none());
        assert_eq!(nic.link().counters()[1].dropped, 3);
        drop(host);
        nic.send(frame(4)).unwrap();
        assert_eq!(nic.link().counters()[1].dropped, 4);
    }

    #[test]
    fn a_lossy_end_never_refuses() {
        let (mut nic, mut host) = Link::pair("n0");
        host.set_lossy();
        for n in 0..QUEUE_FRAMES + 9 {
            assert!(nic.has_room());
            nic.send(frame(n as u8)).unwrap();
        }
        assert_eq!(nic.link().counters()[1].dropped, 9);
        let waiting = nic.sent();
        assert_eq!(waiting.len(), QUEUE_FRAMES);
        host.receive().unwrap();
        nic.put_sent(waiting[..2].to_vec());
        assert_eq!(host.receive(), Some(frame(0)));
        assert_eq!(host.receive(), Some(frame(1)));
        assert_eq!(host.receive(), None);
    }

    #[test]
    fn buffers_go_round() {
        let (mut nic, mut host) = Link::pair("n0");
        nic.send(frame(1)).unwrap();
        let data = host.receive().unwrap().data;
        let place = data.as_ptr();
        host.recycle(data);
        assert!(host.receive().is_none());
        nic.send(frame(2)).unwrap();
        let again = nic.buffer();
        assert!(again.is_empty() && again.as_ptr() == place);
    }
}
