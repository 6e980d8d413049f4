//! What is done to which file. Drawn from a seed, so that a case can be repeated.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::sample::Sample;

/// What is emptied at once: a block of a file system.
const BLOCK_BYTES: usize = 4096;

/// A part of the data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    LogHead,
    LogMiddle,
    LogTail,
    Vote,
    TailMark,
    Snapshot,
    State,
    Artifact,
    Compiled,
    Identity,
}

impl Part {
    const ALL: [Self; 10] = [
        Self::LogHead,
        Self::LogMiddle,
        Self::LogTail,
        Self::Vote,
        Self::TailMark,
        Self::Snapshot,
        Self::State,
        Self::Artifact,
        Self::Compiled,
        Self::Identity,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::LogHead => "log head",
            Self::LogMiddle => "log middle",
            Self::LogTail => "log tail",
            Self::Vote => "vote",
            Self::TailMark => "tail mark",
            Self::Snapshot => "snapshot",
            Self::State => "state",
            Self::Artifact => "artifact",
            Self::Compiled => "compiled",
            Self::Identity => "identity",
        }
    }
}

/// What is done.
#[derive(Clone, Debug)]
enum Act {
    Flip { byte: usize, bit: u8 },
    Zero { from: usize },
    Truncate { len: usize },
    Swap { with: PathBuf },
}

/// One damage.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) part: Part,
    file: PathBuf,
    act: Act,
}

impl Damage {
    /// Draws a part, a file of it, a place in it, and what to do there.
    pub(crate) fn draw(sample: &Sample, dice: &mut Dice) -> Self {
        let part = Part::ALL[dice.below(Part::ALL.len() as u64) as usize];
        let (file, places) = sample.places(part, dice);
        let at = places.start + dice.below(places.len().max(1) as u64) as usize;
        let act = match dice.below(4) {
            0 => Act::Flip { byte: at, bit: dice.below(8) as u8 },
            // A block as the disk has them, or anywhere.
            1 if dice.below(2) == 0 => Act::Zero { from: at / BLOCK_BYTES * BLOCK_BYTES },
            1 => Act::Zero { from: at },
            2 => Act::Truncate { len: at },
            _ => {
                // Mostly with one of its own kind, which looks most like it.
                let others = sample.others(&file, dice.below(3) > 0);
                Act::Swap { with: others[dice.below(others.len() as u64) as usize].clone() }
            }
        };
        Self { part, file, act }
    }

    pub(crate) const fn kind(&self) -> &'static str {
        match self.act {
            Act::Flip { .. } => "bit flip",
            Act::Zero { .. } => "zeros",
            Act::Truncate { .. } => "truncate",
            Act::Swap { .. } => "swap",
        }
    }

    /// Does it below a folder.
    pub(crate) fn apply(&self, folder: &Path) {
        let path = folder.join(&self.file);
        let mut bytes = fs::read(&path).unwrap();
        match &self.act {
            Act::Flip { byte, bit } => {
                if let Some(byte) = bytes.get_mut(*byte) {
                    *byte ^= 1 << bit;
                }
            }
            Act::Zero { from } => {
                let to = bytes.len().min(from + BLOCK_BYTES);
                bytes[(*from).min(to)..to].fill(0);
            }
            Act::Truncate { len } => bytes.truncate(*len),
            Act::Swap { with } => {
                let with = folder.join(with);
                fs::write(&path, fs::read(&with).unwrap()).unwrap();
                fs::write(with, bytes).unwrap();
                return;
            }
        }
        fs::write(path, bytes).unwrap();
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {:?}", self.part.name(), self.file.display(), self.act)
    }
}

/// A small seeded generator (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
