//! An array map of the kernel in the daemon's memory: no system call to read an element.
//! Needs the map to be made with BPF_F_MMAPABLE (Linux 5.5). Promises: memory stays mapped as long as this lives.

use std::{
    fmt, io,
    marker::PhantomData,
    num::NonZeroUsize,
    ops::Deref,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, MapError as AyaError, MapType};
use bytemuck::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    #[error("the kernel does not describe the map `{0}`: {1}")]
    Unknown(&'static str, #[source] AyaError),
    #[error(
        "the map `{map}` has another layout ({found}, not {expected}): it is of another version; `switchmaster purge` removes it"
    )]
    Layout { map: &'static str, found: String, expected: String },
    #[error(
        "the map `{map}` cannot be mapped into memory: {source}; this needs Linux 5.5 and {bytes} bytes of address space"
    )]
    Mmap { map: &'static str, bytes: usize, source: io::Error },
}

/// What may lie in memory that others write.
///
/// # Safety
/// It is made of atomics alone, every byte of it, and any bytes are a value of it.
pub unsafe trait Shared {}

// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU64 {}
// SAFETY: without a gap between them.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// A record of the ABI that the daemon alone writes, and programs read at any time: its words are written one by one, in their
/// order.
#[repr(transparent)]
pub struct Cell<T, const WORDS: usize> {
    words: [AtomicU64; WORDS],
    record: PhantomData<T>,
}

// SAFETY: atomics alone.
unsafe impl<T, const WORDS: usize> Shared for Cell<T, WORDS> {}

impl<T: Pod, const WORDS: usize> Cell<T, WORDS> {
    const IS_WHOLE: () = assert!(size_of::<T>() == WORDS * size_of::<u64>());

    pub fn get(&self) -> T {
        let () = Self::IS_WHOLE;
        let words = self.words.each_ref().map(|word| word.load(Ordering::Acquire));
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words))
    }

    pub fn set(&self, record: &T) {
        let () = Self::IS_WHOLE;
        let mut words = [0; WORDS];
        bytemuck::cast_slice_mut(&mut words).copy_from_slice(bytemuck::bytes_of(record));
        for (word, value) in self.words.iter().zip(words) {
            word.store(value, Ordering::Release);
        }
    }
}

impl<T: Pod + fmt::Debug, const WORDS: usize> fmt::Debug for Cell<T, WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

pub struct Mapping<T: Shared> {
    start: NonNull<T>,
    elements: usize,
    length: NonZeroUsize,
}

// SAFETY: it owns the mapping, and what it hands out are atomics.
unsafe impl<T: Shared> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapping<T> {}

impl<T: Shared> Mapping<T> {
    pub fn new(name: &'static str, map: &MapData) -> Result<Self, MappingError> {
        let info = map.info().map_err(|error| MappingError::Unknown(name, error))?;
        let kind = info.map_type().map_err(|error| MappingError::Unknown(name, error))?;
        let size = info.value_size() as usize;
        if kind != MapType::Array || size != size_of::<T>() {
            let found = format!("{kind:?} of {size} bytes");
            let expected = format!("Array of {} bytes", size_of::<T>());
            return Err(MappingError::Layout { map: name, found, expected });
        }
        Self::map(info.max_entries() as usize, map.fd().as_fd()).map_err(|source| {
            let bytes = info.max_entries() as usize * size_of::<T>();
            MappingError::Mmap { map: name, bytes, source }
        })
    }

    fn map(elements: usize, fd: BorrowedFd<'_>) -> io::Result<Self> {
        // The kernel spaces elements by multiples of eight bytes (array_map_alloc).
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
        let bytes = elements.checked_mul(size_of::<T>()).and_then(NonZeroUsize::new);
        let length = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so nothing that exists is replaced.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { start: start.cast(), elements, length })
    }

    /// The same over memory of no map.
    #[cfg(test)]
    pub fn anonymous(elements: usize) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len((elements * size_of::<T>()) as u64).unwrap();
        Self::map(elements, file.as_fd()).unwrap()
    }
}

impl<T: Shared> Deref for Mapping<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: mapped, page-aligned and that long until drop; any bytes are atomics, which may be shared.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.elements) }
    }
}

impl<T: Shared> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: what `map` has mapped; nobody borrows it any more.
        if let Err(error) = unsafe { munmap(self.start.cast(), self.length.get()) } {
            tracing::error!(%error, "a map stays in memory");
        }
    }
}

impl<T: Shared> fmt::Debug for Mapping<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("elements", &self.elements).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proxy_ebpf::nat::Door;

    use super::*;

    #[test]
    fn a_cell_has_the_bytes_of_its_record() {
        let door = |last| Door {
            addr: std::array::from_fn(|at| at as u8 + last),
            port: [17, last],
            route: 18,
            max_connections: 19,
            open: 20,
            by_xdp: 21,
        };
        let cells = Mapping::<[Cell<Door, 4>; 2]>::anonymous(1);
        let [first, second] = &cells[0];
        first.set(&door(1));
        second.set(&door(7));
        assert_eq!([first.get(), second.get()], [door(1), door(7)]);
        let bytes: Vec<u8> =
            cells[0].iter().flat_map(|it| &it.words).flat_map(|it| it.load(Ordering::Relaxed).to_ne_bytes()).collect();
        assert_eq!(bytes, [bytemuck::bytes_of(&door(1)), bytemuck::bytes_of(&door(7))].concat());
    }
}
