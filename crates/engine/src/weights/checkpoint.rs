//! A safetensors checkpoint: one file or many, found, checked and indexed by tensor name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::bytes::Bytes;
use super::element::{Element, Stored};
use super::error::WeightsError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Pages are dropped while a tensor is still being read only in pieces of this many bytes.
const RELEASED_AT_ONCE: usize = 1 << 20;

/// An open checkpoint.
pub(super) struct Checkpoint {
    /// The directory or the embedded file, for messages.
    pub(super) name: String,
    files: Vec<ShardFile>,
    tensors: BTreeMap<String, Entry>,
}

struct ShardFile {
    name: String,
    bytes: Bytes,
}

/// Where a tensor lies.
pub(super) struct Entry {
    file: usize,
    dtype: safetensors::Dtype,
    pub(super) shape: Vec<usize>,
    /// In the file.
    range: Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(super) fn open(dir: &Path) -> Result<Self, WeightsError> {
        let (index, single) = (dir.join(INDEX), dir.join(SINGLE));
        let files = if single.is_file() {
            vec![single]
        } else if index.is_file() {
            shards(dir, &index)?
        } else {
            return Err(no_checkpoint(dir));
        };
        let mut checkpoint =
            Self { name: dir.display().to_string(), files: Vec::new(), tensors: BTreeMap::new() };
        for path in files {
            let bytes = Bytes::map(&path)
                .map_err(|source| WeightsError::Io { path: path.clone(), source })?;
            checkpoint.add(path.display().to_string(), bytes)?;
        }
        Ok(checkpoint)
    }

    /// Reads a file that is part of the binary.
    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let mut checkpoint =
            Self { name: name.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        checkpoint.add(name.to_owned(), Bytes::Embedded(bytes))?;
        Ok(checkpoint)
    }

    fn add(&mut self, file: String, bytes: Bytes) -> Result<(), WeightsError> {
        let (header_len, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| match error {
                SafeTensorError::MetadataIncompleteBuffer => {
                    WeightsError::Truncated { file: file.clone(), found: bytes.len() }
                }
                error => WeightsError::Corrupt { file: file.clone(), reason: error.to_string() },
            })?;
        let data = 8 + header_len;
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: data + start..data + end,
            };
            if let Some(twin) = self.tensors.insert(name.clone(), entry) {
                let twin = &self.files[twin.file].name;
                let reason = format!("tensor `{name}` is in {twin} too");
                return Err(WeightsError::Corrupt { file, reason });
            }
        }
        bytes.release(0..data);
        self.files.push(ShardFile { name: file, bytes });
        Ok(())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors.
    pub(super) fn num_bytes(&self) -> u64 {
        self.tensors.values().map(|entry| entry.range.len() as u64).sum()
    }

    /// Finds a tensor to be read as `T` and checks shape and type.
    pub(super) fn tensor<T: Element>(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<StoredTensor<'_>, WeightsError> {
        let (file, entry) = self.find(name, shape)?;
        let stored = Stored::from_dtype(entry.dtype).filter(|stored| stored.becomes::<T>());
        let stored = stored.ok_or_else(|| WeightsError::StoredDtype {
            file: file.name.clone(),
            name: name.to_owned(),
            found: format!("{:?}", entry.dtype),
        })?;
        Ok(StoredTensor { bytes: &file.bytes, range: entry.range.clone(), stored })
    }

    /// The bytes of a tensor of just this shape and type.
    pub(super) fn bytes(
        &self,
        name: &str,
        dtype: safetensors::Dtype,
        shape: &[usize],
    ) -> Result<&[u8], WeightsError> {
        let (file, entry) = self.find(name, shape)?;
        if entry.dtype != dtype {
            return Err(WeightsError::QuantizedDtype {
                file: file.name.clone(),
                name: name.to_owned(),
                expected: format!("{dtype:?}"),
                found: format!("{:?}", entry.dtype),
            });
        }
        Ok(&file.bytes[entry.range.clone()])
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<(&ShardFile, &Entry), WeightsError> {
        let entry = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let file = &self.files[entry.file];
        if entry.shape != shape {
            return Err(WeightsError::Shape {
                file: file.name.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        Ok((file, entry))
    }

    fn missing(&self, name: &str) -> WeightsError {
        let file = self.name.clone();
        let layer = name.strip_suffix(".weight").unwrap_or(name);
        let packed = [".qweight", ".weight_packed", "_blocks"].map(|end| format!("{layer}{end}"));
        match packed.into_iter().find(|name| self.contains(name)) {
            Some(name) => WeightsError::Unexplained { file, name },
            None => WeightsError::MissingTensor { file, name: name.to_owned() },
        }
    }

    /// Drops a tensor's pages from memory. How many bytes it has.
    pub(super) fn release(&self, name: &str) -> u64 {
        let Some(entry) = self.tensors.get(name) else { return 0 };
        self.files[entry.file].bytes.release(entry.range.clone());
        entry.range.len() as u64
    }

    /// Shape of a tensor, if it is there.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Type of a tensor, if it is there.
    pub(super) fn dtype(&self, name: &str) -> Option<safetensors::Dtype> {
        self.tensors.get(name).map(|entry| entry.dtype)
    }
}

/// A tensor in a file, found and checked.
pub(super) struct StoredTensor<'a> {
    bytes: &'a Bytes,
    range: Range<usize>,
    stored: Stored,
}

impl StoredTensor<'_> {
    /// Decodes the elements `first..first + dst.len()` of the flattened tensor.
    pub(super) fn read<T: Element>(&self, first: usize, dst: &mut [T]) {
        let size = self.stored.size_in_bytes();
        let start = self.range.start + first * size;
        let range = start..start + dst.len() * size;
        self.stored.decode(&self.bytes[range.clone()], dst);
        if range.len() >= RELEASED_AT_ONCE {
            self.bytes.release(range);
        }
    }

    /// Drops the whole tensor's pages from memory.
    pub(super) fn release(&self) {
        self.bytes.release(self.range.clone());
    }

    /// Bytes of `len` elements.
    pub(super) fn num_bytes(&self, len: usize) -> u64 {
        (len * self.stored.size_in_bytes()) as u64
    }
}

/// The shard files that the index names, all of them there.
fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let path = index.to_owned();
    let text = fs::read(index).map_err(|source| WeightsError::Io { path: path.clone(), source })?;
    let map = serde_json::from_slice::<Index>(&text)
        .map_err(|error| WeightsError::Index { path: path.clone(), reason: error.to_string() })?
        .weight_map;
    let names: BTreeSet<String> = map.into_values().collect();
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref()))
    {
        let reason = format!("shard `{name}` is not a plain file name");
        return Err(WeightsError::Index { path, reason });
    }
    let total = names.len();
    let (found, missing): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| dir.join(name).is_file());
    if !missing.is_empty() {
        return Err(WeightsError::MissingShards { index: path, missing, total });
    }
    Ok(found.into_iter().map(|name| dir.join(name)).collect())
}

fn no_checkpoint(dir: &Path) -> WeightsError {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(source) => {
            return WeightsError::Io { path: dir.to_owned(), source };
        }
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.truncate(8);
    let found = if names.is_empty() {
        "the directory is empty".to_owned()
    } else {
        format!("it holds {}", names.join(", "))
    };
    WeightsError::NoCheckpoint { dir: dir.to_owned(), found }
}
