//! From a request on the wire to an operation on an export: every check in one pure place, so that exports see only
//! what makes sense (I9).

use super::export::{ExportInfo, NbdError, Op, REQUEST_BYTES_MAX, ZeroFlags};
use super::proto::{Request, command, command_flag};

/// What the connection agreed on, as far as requests depend on it.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) info: ExportInfo,
    pub(crate) structured: bool,
    /// Whether `base:allocation` was selected.
    pub(crate) status: bool,
}

impl Terms {
    /// Checks a request. The length of a write's payload is the caller's to read off the stream, whatever this says.
    pub(crate) fn check(&self, request: &Request) -> Result<Op, NbdError> {
        let Request { flags, command, offset, length: len, .. } = *request;
        self.check_flags(flags, command)?;
        let fua = flags & command_flag::FUA != 0;
        let (op, changes, offered) = match command {
            command::READ => (Op::Read { offset, len }, false, true),
            command::WRITE => (Op::Write { offset, len, fua }, true, true),
            command::FLUSH => return self.check_flush(offset, len),
            command::TRIM => (Op::Trim { offset, len, fua }, true, self.info.can_trim),
            command::WRITE_ZEROES => {
                let no_hole = flags & command_flag::NO_HOLE != 0;
                let fast = flags & command_flag::FAST_ZERO != 0;
                let flags = ZeroFlags { no_hole, fua, fast };
                (Op::WriteZeroes { offset, len, flags }, true, self.info.can_zero)
            }
            command::CACHE => (Op::Cache { offset, len }, false, self.info.can_cache),
            command::BLOCK_STATUS => (Op::BlockStatus { offset, len }, false, self.status),
            _ => return Err(invalid("unknown command")),
        };
        if changes && self.info.read_only {
            return Err(NbdError::NotPermitted("the export is read-only".into()));
        }
        if !offered {
            return Err(invalid("this command was not offered"));
        }
        self.check_range(&op, offset, len)?;
        Ok(op)
    }

    fn check_flags(&self, flags: u16, command: u16) -> Result<(), NbdError> {
        // FUA may come with any command once it was offered; where it means nothing it is ignored.
        let mut allowed = if self.info.can_fua { command_flag::FUA } else { 0 };
        allowed |= match command {
            command::READ if self.structured => command_flag::DF,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            command::WRITE_ZEROES if self.info.can_fast_zero => command_flag::NO_HOLE | command_flag::FAST_ZERO,
            command::WRITE_ZEROES => command_flag::NO_HOLE,
            _ => 0,
        };
        if flags & !allowed == 0 { Ok(()) } else { Err(invalid("a flag that was not offered")) }
    }

    fn check_flush(&self, offset: u64, len: u32) -> Result<Op, NbdError> {
        match (self.info.can_flush, offset, len) {
            (true, 0, 0) => Ok(Op::Flush),
            (true, ..) => Err(invalid("a flush has neither offset nor length")),
            (false, ..) => Err(invalid("this command was not offered")),
        }
    }

    fn check_range(&self, op: &Op, offset: u64, len: u32) -> Result<(), NbdError> {
        let payload = matches!(op, Op::Read { .. } | Op::Write { .. });
        if payload && len > REQUEST_BYTES_MAX {
            return Err(invalid("longer than the 32 MiB that were offered"));
        }
        if len == 0 {
            return Err(invalid("an empty range"));
        }
        let sector = self.info.sector_bytes;
        if !offset.is_multiple_of(sector.into()) || !len.is_multiple_of(sector) {
            return Err(NbdError::Invalid(format!("offset or length is no multiple of the sector of {sector} bytes")));
        }
        if offset.checked_add(len.into()).is_none_or(|end| end > self.info.size_bytes) {
            let text = "past the end of the disk".to_owned();
            // The specification's choice: no space where something would have to be put there, else invalid.
            return Err(match op {
                Op::Write { .. } | Op::WriteZeroes { .. } => NbdError::NoSpace(text),
                _ => NbdError::Invalid(text),
            });
        }
        Ok(())
    }
}

fn invalid(text: &str) -> NbdError {
    NbdError::Invalid(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms { info: ExportInfo::full("d", 1 << 20, 512), structured: true, status: true }
    }

    fn request(command: u16, flags: u16, offset: u64, length: u32) -> Request {
        Request { flags, command, cookie: 1, offset, length }
    }

    fn errno(terms: &Terms, command: u16, flags: u16, offset: u64, length: u32) -> u32 {
        terms.check(&request(command, flags, offset, length)).map_or_else(|error| error.errno(), |_| 0)
    }

    #[test]
    fn requests_within_the_terms_become_operations() {
        let terms = terms();
        assert_eq!(terms.check(&request(0, 4, 0, 512)), Ok(Op::Read { offset: 0, len: 512 }));
        assert_eq!(terms.check(&request(1, 1, 512, 512)), Ok(Op::Write { offset: 512, len: 512, fua: true }));
        let flags = ZeroFlags { no_hole: true, fua: false, fast: true };
        assert_eq!(
            terms.check(&request(6, 2 | 16, 0, 1 << 20)),
            Ok(Op::WriteZeroes { offset: 0, len: 1 << 20, flags })
        );
        assert_eq!(terms.check(&request(3, 0, 0, 0)), Ok(Op::Flush));
    }

    #[test]
    fn every_way_to_ask_wrongly_has_its_error_number() {
        let terms = terms();
        assert_eq!(errno(&terms, 0, 0, 1 << 20, 512), 22, "read past the end");
        assert_eq!(errno(&terms, 1, 0, (1 << 20) - 512, 1024), 28, "write past the end");
        assert_eq!(errno(&terms, 6, 0, 1 << 20, 512), 28, "zeroes past the end");
        assert_eq!(errno(&terms, 4, 0, 1 << 20, 512), 22, "trim past the end");
        assert_eq!(errno(&terms, 0, 0, u64::MAX - 511, 512), 22, "an end past 2^64");
        assert_eq!(errno(&terms, 0, 0, 1, 512), 22, "unaligned offset");
        assert_eq!(errno(&terms, 0, 0, 0, 513), 22, "unaligned length");
        assert_eq!(errno(&terms, 0, 0, 0, 0), 22, "empty");
        assert_eq!(errno(&terms, 1, 0, 0, REQUEST_BYTES_MAX + 512), 22, "too long");
        assert_eq!(errno(&terms, 1, 2, 0, 512), 22, "a flag of another command");
        assert_eq!(errno(&terms, 0, 0x8000, 0, 512), 22, "an unknown flag");
        assert_eq!(errno(&terms, 99, 0, 0, 512), 22, "an unknown command");
        assert_eq!(errno(&terms, 3, 0, 0, 512), 22, "a flush of a range");
    }

    #[test]
    fn what_was_not_offered_is_refused() {
        let read_only = Terms { info: ExportInfo::read_only("d", 1 << 20, 512), structured: false, status: false };
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(errno(&read_only, command, 0, 0, 512), 1, "command {command} on a read-only export");
        }
        assert_eq!(errno(&read_only, command::WRITE, command_flag::FUA, 0, 512), 22);
        assert_eq!(errno(&read_only, command::READ, command_flag::DF, 0, 512), 22);
        assert_eq!(errno(&read_only, command::BLOCK_STATUS, 0, 0, 512), 22);
        let mut plain = terms();
        (plain.info.can_trim, plain.info.can_fast_zero, plain.info.can_flush) = (false, false, false);
        assert_eq!(errno(&plain, command::CACHE, 0, 0, 512), 0);
        plain.info.can_cache = false;
        assert_eq!(errno(&plain, command::CACHE, 0, 0, 512), 22);
        assert_eq!(errno(&plain, command::TRIM, 0, 0, 512), 22);
        assert_eq!(errno(&plain, command::WRITE_ZEROES, command_flag::FAST_ZERO, 0, 512), 22);
        assert_eq!(errno(&plain, command::FLUSH, 0, 0, 0), 22);
        assert_eq!(errno(&plain, command::WRITE, 0, 0, 512), 0);
    }
}
