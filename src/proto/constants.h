#pragma once

#include <cstddef>
#include <cstdint>

// The NBD protocol's numbers, under the names the specification gives them (NBD proto, "Values").
//
// All of src/proto is pure: bytes in, values out; no I/O, no clock, no logging, no state between calls. Any
// function may be called on any thread. Integers on the wire are big-endian.

namespace fdbnbd::proto {

// Magic numbers.
inline constexpr uint64_t kNbdMagic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr uint64_t kIHaveOpt = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;

// Handshake flags, 16 bits, from the server.
inline constexpr uint16_t kFlagFixedNewstyle = 1 << 0;
inline constexpr uint16_t kFlagNoZeroes = 1 << 1;

// Client flags, 32 bits.
inline constexpr uint32_t kFlagCFixedNewstyle = 1 << 0;
inline constexpr uint32_t kFlagCNoZeroes = 1 << 1;

// Transmission flags, 16 bits.
inline constexpr uint16_t kFlagHasFlags = 1 << 0;
inline constexpr uint16_t kFlagReadOnly = 1 << 1;
inline constexpr uint16_t kFlagSendFlush = 1 << 2;
inline constexpr uint16_t kFlagSendFua = 1 << 3;
inline constexpr uint16_t kFlagRotational = 1 << 4;
inline constexpr uint16_t kFlagSendTrim = 1 << 5;
inline constexpr uint16_t kFlagSendWriteZeroes = 1 << 6;
inline constexpr uint16_t kFlagSendDf = 1 << 7;
inline constexpr uint16_t kFlagCanMultiConn = 1 << 8;
inline constexpr uint16_t kFlagSendResize = 1 << 9;
inline constexpr uint16_t kFlagSendCache = 1 << 10;
inline constexpr uint16_t kFlagSendFastZero = 1 << 11;
inline constexpr uint16_t kFlagBlockStatusPayload = 1 << 12;

// Options of the handshake. The wire can carry any 32-bit number in an Option.
enum class Option : uint32_t {
  export_name = 1,
  abort = 2,
  list = 3,
  peek_export = 4,
  starttls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
  extended_headers = 11,
};

enum class OptionReply : uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  err_unsup = 0x80000001,
  err_policy = 0x80000002,
  err_invalid = 0x80000003,
  err_platform = 0x80000004,
  err_tls_reqd = 0x80000005,
  err_unknown = 0x80000006,
  err_shutdown = 0x80000007,
  err_block_size_reqd = 0x80000008,
  err_too_big = 0x80000009,
  err_ext_header_reqd = 0x8000000a,
};

// Kinds of NBD_REP_INFO. The wire can carry any 16-bit number.
enum class InfoType : uint16_t { export_ = 0, name = 1, description = 2, block_size = 3 };

// Commands of the transmission phase. The wire can carry any 16-bit number in a Command.
enum class Command : uint16_t {
  read = 0,
  write = 1,
  disc = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
  resize = 8,
};

// Command flags, 16 bits.
inline constexpr uint16_t kCmdFlagFua = 1 << 0;
inline constexpr uint16_t kCmdFlagNoHole = 1 << 1;
inline constexpr uint16_t kCmdFlagDf = 1 << 2;
inline constexpr uint16_t kCmdFlagReqOne = 1 << 3;
inline constexpr uint16_t kCmdFlagFastZero = 1 << 4;
inline constexpr uint16_t kCmdFlagPayloadLen = 1 << 5;

// Structured replies.
inline constexpr uint16_t kReplyFlagDone = 1 << 0;

enum class ChunkType : uint16_t {
  none = 0,
  offset_data = 1,
  offset_hole = 2,
  block_status = 5,
  block_status_ext = 6,
  error = 0x8001,
  error_offset = 0x8002,
};

// Flags of a base:allocation descriptor.
inline constexpr uint32_t kStateHole = 1 << 0;
inline constexpr uint32_t kStateZero = 1 << 1;

// What the error field of a reply may hold; `ok` is no error.
enum class NbdError : uint32_t {
  ok = 0,
  eperm = 1,
  eio = 5,
  enomem = 12,
  einval = 22,
  enospc = 28,
  eoverflow = 75,
  enotsup = 95,
  eshutdown = 108,
};

// The name of a known number ("NBD_OPT_GO", "NBD_CMD_READ", "NBD_EIO"), "unknown" for others; for logs.
const char* option_name(Option option);
const char* command_name(Command command);
const char* error_name(NbdError error);

}  // namespace fdbnbd::proto
