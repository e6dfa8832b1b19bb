//! The live feed: frames of server-sent events in one bounded ring, which every stream reads at its own place.
//!
//! ```text
//!   Watcher ─ publish ─► ring: [n-4095 … n-1 n]  (frames rendered once)      stream: a place in the ring, nothing else
//!                              ▲ oldest go by count and by bytes             behind the oldest: `reset`, then on from n
//! ```
//!
//! A stream costs its connection and one number, however slow its reader is. `id:` is `<life>-<n>`: a client that comes
//! back with `Last-Event-ID` goes on behind it, or is told by `reset` to fetch everything anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

/// Most frames that are kept. Chosen: a minute of 1,000 machines at work, which covers any reconnect.
const FRAMES_MAX: usize = 4096;
/// Most bytes of them. Chosen: more than a connection's buffers, less than anybody notices.
const BYTES_MAX: usize = 8 << 20;
/// Most bytes that a stream is handed at once.
const CHUNK_BYTES: usize = 64 << 10;
/// A stream with nothing to say says so after this time: proxies and clients close silent connections.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Most streams at a time. Each holds a connection.
const STREAMS_MAX: usize = 4096;
/// For so long after the last stream's end the ring is kept for its return.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The feed.
#[derive(Debug)]
pub(crate) struct Feed {
    life: u64,
    ring: Mutex<Ring>,
    /// The number of the newest frame; closed at the end.
    news: watch::Sender<u64>,
    streams: AtomicUsize,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Ring {
    frames: VecDeque<(u64, Bytes)>,
    bytes: usize,
    last: u64,
    read_until: Option<Instant>,
}

/// More streams than are allowed.
#[derive(Debug)]
pub(crate) struct TooManyStreams;

impl Feed {
    /// An empty feed; `life` tells its ids from those of an earlier process.
    pub(crate) fn new(life: u64) -> Self {
        let ring = Ring { frames: VecDeque::new(), bytes: 0, last: 0, read_until: None };
        Self {
            life,
            ring: Mutex::new(ring),
            news: watch::Sender::new(0),
            streams: AtomicUsize::new(0),
            closed: watch::Sender::new(false),
        }
    }

    /// How many streams there are.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether anybody reads, or may come back for what is missed. When nobody does, nothing needs to be published.
    pub(crate) fn is_read(&self, now: Instant) -> bool {
        let mut ring = self.ring.lock();
        if self.streams() > 0 {
            ring.read_until = Some(now + KEPT_FOR);
        }
        let read = ring.read_until.is_some_and(|until| now < until);
        if !read && !ring.frames.is_empty() {
            // What is not published from here on is missed: whoever comes back must be told.
            ring.frames.clear();
            ring.bytes = 0;
            ring.last += 1;
        }
        read
    }

    /// Appends a frame.
    pub(crate) fn publish<T: Serialize>(&self, kind: &str, data: &T) {
        let Ok(data) = serde_json::to_string(data) else { return };
        let mut ring = self.ring.lock();
        ring.last += 1;
        let last = ring.last;
        let frame = Bytes::from(format!("id: {:x}-{last}\nevent: {kind}\ndata: {data}\n\n", self.life));
        ring.bytes += frame.len();
        ring.frames.push_back((last, frame));
        while ring.frames.len() > FRAMES_MAX || ring.bytes > BYTES_MAX {
            let Some((_, gone)) = ring.frames.pop_front() else { break };
            ring.bytes -= gone.len();
        }
        drop(ring);
        self.news.send_replace(last);
    }

    /// Ends every stream.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// A stream that goes on behind `after`, where that can be. `valid` is asked at each heartbeat: a stream ends with
    /// the token that it was opened with.
    pub(crate) fn stream(
        self: &Arc<Self>,
        after: Option<&str>,
        valid: impl Fn() -> bool + 'static,
    ) -> Result<impl Stream<Item = Result<Bytes, actix_web::Error>> + 'static, TooManyStreams> {
        let place = self.place(after)?;
        Ok(unfold((place, valid), |(mut place, valid)| async move {
            let chunk = place.next(&valid).await?;
            Some((Ok(chunk), (place, valid)))
        }))
    }

    fn place(self: &Arc<Self>, after: Option<&str>) -> Result<Place, TooManyStreams> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= STREAMS_MAX {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManyStreams);
        }
        let ring = self.ring.lock();
        let (life, number) = after.and_then(|after| after.split_once('-')).unzip();
        let same = life.is_some_and(|life| u64::from_str_radix(life, 16) == Ok(self.life));
        let number = number.and_then(|number| number.parse::<u64>().ok()).filter(|number| *number <= ring.last);
        let (at, greeting) = match (after, number) {
            (Some(_), Some(number)) if same => (number, None),
            (Some(_), _) => (ring.last, Some("restarted")),
            (None, _) => (ring.last, Some("begun")),
        };
        drop(ring);
        Ok(Place { feed: self.clone(), at, greeting, news: self.news.subscribe(), closed: self.closed.subscribe() })
    }
}

/// Where a stream is.
struct Place {
    feed: Arc<Feed>,
    at: u64,
    /// Why everything must be fetched anew, until that was said.
    greeting: Option<&'static str>,
    news: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.feed.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// What comes next; `None`: the stream ends.
    async fn next(&mut self, valid: &impl Fn() -> bool) -> Option<Bytes> {
        loop {
            if *self.closed.borrow() {
                return None;
            }
            self.news.borrow_and_update();
            if let Some(chunk) = self.ready() {
                return Some(chunk);
            }
            tokio::select! {
                _ = self.closed.changed() => {}
                changed = self.news.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep(HEARTBEAT) => {
                    return valid().then(|| Bytes::from_static(b": still here\n\n"));
                }
            }
        }
    }

    /// Frames behind the place, and the place behind them.
    fn ready(&mut self) -> Option<Bytes> {
        let ring = self.feed.ring.lock();
        let oldest = ring.frames.front().map_or(ring.last + 1, |(number, _)| *number);
        if self.at + 1 < oldest {
            (self.at, self.greeting) = (ring.last, Some(self.greeting.unwrap_or("missed")));
        }
        if let Some(reason) = self.greeting.take() {
            let (life, at) = (self.feed.life, self.at);
            let text = format!("retry: 2000\nid: {life:x}-{at}\nevent: reset\ndata: {{\"reason\":\"{reason}\"}}\n\n");
            return Some(Bytes::from(text));
        }
        let from = ring.frames.partition_point(|(number, _)| *number <= self.at);
        let mut chunk = Vec::new();
        for (number, frame) in ring.frames.range(from..) {
            if !chunk.is_empty() && chunk.len() + frame.len() > CHUNK_BYTES {
                break;
            }
            chunk.extend_from_slice(frame);
            self.at = *number;
        }
        (!chunk.is_empty()).then(|| Bytes::from(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(place: &mut Place) -> Option<String> {
        place.ready().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn a_stream_begins_with_a_reset_and_goes_on_behind_the_last_event_that_it_saw() {
        let feed = Arc::new(Feed::new(0xab));
        feed.publish("job", &1);
        let mut first = feed.place(None).expect("room");
        let greeting = text(&mut first).expect("a greeting");
        assert!(greeting.contains("event: reset") && greeting.contains("id: ab-1\n"), "{greeting}");
        assert_eq!(text(&mut first), None);
        feed.publish("job", &2);
        assert_eq!(text(&mut first).expect("a frame"), "id: ab-2\nevent: job\ndata: 2\n\n");
        let mut back = feed.place(Some("ab-1")).expect("room");
        assert_eq!(text(&mut back).expect("a frame"), "id: ab-2\nevent: job\ndata: 2\n\n");
        for foreign in ["ac-1", "ab-99", "nonsense", ""] {
            let mut back = feed.place(Some(foreign)).expect("room");
            assert!(text(&mut back).is_some_and(|text| text.contains("restarted")), "{foreign}");
        }
    }

    #[test]
    fn who_falls_behind_the_ring_is_told_and_the_ring_stays_bounded() {
        let feed = Arc::new(Feed::new(1));
        let mut slow = feed.place(None).expect("room");
        assert!(text(&mut slow).is_some());
        for _ in 0..FRAMES_MAX + 1 {
            feed.publish("machine", &"x");
        }
        assert_eq!(feed.ring.lock().frames.len(), FRAMES_MAX);
        assert!(text(&mut slow).is_some_and(|text| text.contains("missed")));
        feed.publish("machine", &"y");
        assert!(text(&mut slow).is_some_and(|text| text.contains("\"y\"") && !text.contains("\"x\"")));
        let large = "z".repeat(BYTES_MAX / 4);
        for _ in 0..8 {
            feed.publish("machine", &large);
        }
        assert!(feed.ring.lock().bytes <= BYTES_MAX);
    }

    #[test]
    fn streams_are_counted_and_no_more_than_the_most_are_let_in() {
        let feed = Arc::new(Feed::new(1));
        let places: Vec<_> = (0..STREAMS_MAX).map(|_| feed.place(None).expect("room")).collect();
        assert!(feed.place(None).is_err());
        drop(places);
        assert_eq!(feed.streams(), 0);
    }

    #[test]
    fn what_nobody_reads_is_forgotten_and_who_comes_back_later_is_told() {
        let feed = Arc::new(Feed::new(1));
        let start = Instant::now();
        let place = feed.place(None).expect("room");
        assert!(feed.is_read(start));
        feed.publish("job", &1);
        drop(place);
        assert!(feed.is_read(start + KEPT_FOR / 2), "it may come back");
        assert!(!feed.is_read(start + KEPT_FOR));
        let mut back = feed.place(Some("1-1")).expect("room");
        assert!(text(&mut back).is_some_and(|text| text.contains("missed")));
    }
}
