#pragma once

namespace fdbnbd::kv {

// Debian's librocksdb is built for the oldest amd64 machines and computes CRC-32C, which it puts on every
// record of the write-ahead log and on every blob, with tables: a third of all processor time of the store
// (docs/decisions/0004-fast-crc32c.md). fast_crc32c.cc defines the same function with the processor's
// instruction, and the dynamic linker takes the program's definition before the library's.
//
// Whether that definition computes CRC-32C correctly on this machine, by its published check value. Also
// pulls it into the program. Any thread.
bool crc32c_is_correct();

}  // namespace fdbnbd::kv
