//! `--audiodev`: what the guest's sound becomes, a WAV file or nothing.
//!
//! The devices' [`Desk`] passes blocks of samples to a thread that writes them. The file's header is brought up to date a few times a second,
//! after the samples that it counts, so that also a file whose emulator was killed can be played.

use crate::error::Error;
use crate::props::Props;
use emu_core::nearest::hint;
use emu_devices::audio::{Counters, Desk, Frame, Tape, Voice};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// QEMU's rate.
const RATE: u32 = 44_100;
/// How often the header is written.
const UPDATE: Duration = Duration::from_millis(250);
const HEADER: u32 = 44;
/// 16 bits, stereo.
const FRAME: u32 = 4;

/// A back end that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audiodev {
    pub id: String,
    pub driver: Driver,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    None,
    Wav { path: PathBuf, rate: u32 },
}

/// Reads a value of `--audiodev`.
pub fn parse(text: &str) -> Result<Audiodev, String> {
    let mut props = Props::parse(text)?;
    let driver = match props.name() {
        "none" => Driver::None,
        "wav" => {
            let path = props.text("path")?;
            let path = path.ok_or("give path=FILE, the file to write")?;
            let rate = |v: &str| v.parse().ok().filter(|r| (8_000..=192_000).contains(r));
            let rate = props.read("out.frequency", "a rate from 8000 to 192000", rate)?;
            Driver::Wav {
                path: path.into(),
                rate: rate.unwrap_or(RATE),
            }
        }
        _ => return Err("give none,id=ID or wav,id=ID,path=FILE[,out.frequency=44100]".into()),
    };
    let id = props.text("id")?;
    let id = id.ok_or("give id=ID, by which a device names it")?;
    props.finish()?;
    Ok(Audiodev { id, driver })
}

/// The back ends of a machine; their files are complete when this has been dropped.
#[derive(Default)]
pub struct Audio {
    list: Vec<Open>,
}

struct Open {
    id: String,
    /// `None`: nobody listens.
    desk: Option<Desk>,
    writer: Option<JoinHandle<()>>,
}

impl Audio {
    /// Opens the files; `silent`: as if all were `none`.
    pub fn open(devs: &[Audiodev], silent: bool) -> Result<Self, Error> {
        let mut audio = Self::default();
        for dev in devs {
            if audio.list.iter().any(|o| o.id == dev.id) {
                return Err(Error::Audio(format!(
                    "--audiodev: {} is given twice",
                    dev.id
                )));
            }
            let mut open = Open {
                id: dev.id.clone(),
                desk: None,
                writer: None,
            };
            if let Driver::Wav { path, rate } = &dev.driver
                && !silent
            {
                let wav = Wav::create(path, *rate).map_err(|e| {
                    let path = path.display();
                    Error::Audio(format!("--audiodev {}: {path}: {e}", dev.id))
                })?;
                let (desk, tape) = Desk::new(*rate);
                open.desk = Some(desk);
                let name = format!("--audiodev {}: {}", dev.id, path.display());
                let thread = std::thread::Builder::new().name("audio".into());
                let thread = thread.spawn(move || write(wav, tape, &name));
                open.writer = Some(thread.map_err(Error::Thread)?);
            }
            audio.list.push(open);
        }
        Ok(audio)
    }

    /// A voice on the back end of this name.
    pub fn voice(&self, id: &str) -> Result<Voice, Error> {
        let Some(open) = self.list.iter().find(|o| o.id == id) else {
            let hint = hint(id, self.list.iter().map(|o| &o.id[..]));
            return Err(Error::Audio(format!(
                "there is no audiodev \"{id}\"{hint}: give --audiodev none|wav,id={id},..."
            )));
        };
        Ok(open.desk.as_ref().map_or_else(Voice::silent, Desk::voice))
    }

    /// The sums over all back ends.
    pub fn counters(&self) -> Counters {
        let desks = self.list.iter().filter_map(|o| o.desk.as_ref());
        desks
            .map(Desk::counters)
            .fold(Counters::default(), |a, b| Counters {
                played: a.played + b.played,
                dropped: a.dropped + b.dropped,
            })
    }
}

impl Drop for Audio {
    fn drop(&mut self) {
        for open in &mut self.list {
            if let Some(desk) = &open.desk {
                desk.close();
            }
            if let Some(writer) = open.writer.take() {
                // It has said what went wrong.
                let _ = writer.join();
            }
        }
    }
}

/// The thread: writes until the desk is closed or the file fails.
fn write(mut wav: Wav, tape: Tape, name: &str) {
    let blocks = tape.into_inner();
    let mut updated = Instant::now();
    loop {
        let done = match blocks.recv_timeout(UPDATE) {
            Ok(block) => wav.write(&block),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                report(wav.update(), name);
                return;
            }
        };
        let done = match updated.elapsed() >= UPDATE {
            true => {
                updated = Instant::now();
                done.and_then(|()| wav.update())
            }
            false => done,
        };
        if done.is_err() {
            return report(done, name);
        }
    }
}

fn report(done: io::Result<()>, name: &str) {
    if let Err(e) = done {
        crate::console::say(format_args!(
            "emu: {name}: {e}: the rest of the sound is lost"
        ));
    }
}

/// A RIFF WAVE file being written: 16-bit PCM, stereo.
struct Wav {
    file: BufWriter<File>,
    rate: u32,
    /// Bytes of samples, and how many of them the header counts.
    bytes: u32,
    counted: Option<u32>,
}

impl Wav {
    fn create(path: &Path, rate: u32) -> io::Result<Self> {
        let mut wav = Self {
            file: BufWriter::new(File::create(path)?),
            rate,
            bytes: 0,
            counted: None,
        };
        wav.file.write_all(&[0; HEADER as usize])?;
        wav.update()?;
        Ok(wav)
    }

    fn write(&mut self, frames: &[Frame]) -> io::Result<()> {
        let most = (u32::MAX - HEADER - self.bytes) / FRAME;
        let fits = &frames[..frames.len().min(most as usize)];
        let bytes = fits.iter().flatten().flat_map(|s| s.to_le_bytes());
        self.file.write_all(&bytes.collect::<Vec<u8>>())?;
        self.bytes += fits.len() as u32 * FRAME;
        match fits.len() == frames.len() {
            true => Ok(()),
            false => {
                self.update()?;
                Err(io::Error::other("a WAV file holds 4 GiB"))
            }
        }
    }

    /// The samples first, then the header that counts them.
    fn update(&mut self) -> io::Result<()> {
        if self.counted == Some(self.bytes) {
            return Ok(());
        }
        self.file.flush()?;
        self.file.seek(SeekFrom::Start(0))?;
        let header = self.header();
        self.file.write_all(&header)?;
        self.file.flush()?;
        self.file.seek(SeekFrom::End(0))?;
        self.counted = Some(self.bytes);
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let mut h = Vec::with_capacity(HEADER as usize);
        h.extend(b"RIFF");
        h.extend((self.bytes + HEADER - 8).to_le_bytes());
        h.extend(b"WAVEfmt ");
        h.extend(16u32.to_le_bytes());
        h.extend([1, 0, 2, 0]); // PCM, two channels
        h.extend(self.rate.to_le_bytes());
        h.extend((self.rate * FRAME).to_le_bytes());
        h.extend([FRAME as u8, 0, 16, 0]);
        h.extend(b"data");
        h.extend(self.bytes.to_le_bytes());
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("emu-audio-{name}-{}.wav", std::process::id()))
    }

    fn wav(path: &Path) -> Audiodev {
        parse(&format!("wav,id=a,path={}", path.display())).unwrap()
    }

    fn word(file: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn values() {
        let dev = parse("wav,id=a,path=x.wav,out.frequency=48000").unwrap();
        let (path, rate) = ("x.wav".into(), 48_000);
        assert_eq!(dev.driver, Driver::Wav { path, rate });
        assert_eq!(parse("none,id=n").unwrap().driver, Driver::None);
        for bad in [
            "",
            "none",
            "wav,id=a",
            "alsa,id=a",
            "none,id=a,path=x",
            "wav,id=a,path=x,out.frequency=0",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_has_what_was_played() {
        let path = scratch("played");
        let audio = Audio::open(&[wav(&path)], false).unwrap();
        let empty = std::fs::read(&path).unwrap();
        assert_eq!(
            (empty.len(), word(&empty, 4), word(&empty, 40)),
            (44, 36, 0)
        );
        let mut voice = audio.voice("a").unwrap();
        voice.play(0, RATE, &[[1, -2]; 3000]);
        voice.stop();
        assert_eq!(
            (audio.counters().played, audio.counters().dropped),
            (3000, 0)
        );
        drop(audio);
        let file = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            (file.len(), word(&file, 40), word(&file, 4)),
            (12_044, 12_000, 12_036)
        );
        assert_eq!((&file[..4], &file[8..16]), (&b"RIFF"[..], &b"WAVEfmt "[..]));
        assert_eq!((word(&file, 24), word(&file, 28)), (44_100, 176_400));
        assert!(file[44..].chunks(4).all(|f| f == [1, 0, 0xfe, 0xff]));
    }

    #[test]
    fn the_header_is_right_while_it_grows() {
        let path = scratch("grows");
        let audio = Audio::open(&[wav(&path)], false).unwrap();
        let mut voice = audio.voice("a").unwrap();
        voice.play(0, RATE, &[[1, 1]; 2048]);
        let began = Instant::now();
        let counted = loop {
            let file = std::fs::read(&path).unwrap();
            let counted = word(&file, 40);
            assert!(counted as usize <= file.len() - 44);
            if counted > 0 || began.elapsed() > Duration::from_secs(20) {
                break counted;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(counted, 8192);
        drop(audio);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn mistakes_are_told() {
        let fails = |devs: &[Audiodev]| match Audio::open(devs, false) {
            Ok(_) => panic!("opened"),
            Err(e) => (e.status(), e.to_string()),
        };
        let nowhere = parse("wav,id=a,path=/nonexistent/x.wav").unwrap();
        let (status, text) = fails(&[nowhere]);
        assert_eq!(status, crate::status::Status::Usage);
        assert!(text.contains("/nonexistent/x.wav"), "{text}");
        let none = parse("none,id=a").unwrap();
        assert!(fails(&[none.clone(), none.clone()]).1.contains("twice"));
        let audio = Audio::open(&[none], false).unwrap();
        assert!(!audio.voice("a").unwrap().is_heard());
        let error = audio.voice("b").err().unwrap().to_string();
        assert!(
            error.contains("\"b\"") && error.contains("--audiodev"),
            "{error}"
        );
    }
}
