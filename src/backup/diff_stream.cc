#include "backup/diff_stream.h"

#include <fmt/core.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/checked_math.h"
#include "base/endian.h"

namespace fdbnbd::backup {

namespace {

constexpr std::string_view kMagic = "fdbnbdDF";
constexpr uint32_t kVersion = 1;
constexpr size_t kPrefixBytes = 16;
constexpr size_t kRecordHeaderBytes = 24;
constexpr size_t kChecksumBytes = 8;
constexpr int kZstdLevel = 1;
// Compression is used where it saves at least this part.
constexpr size_t kWorthwhileDivisor = 16;

constexpr char kTypeHeader = 1;
constexpr char kTypeData = 2;
constexpr char kTypeZero = 3;
constexpr char kTypeEnd = 4;

constexpr char kCodecNone = 0;
constexpr char kCodecZstd = 1;

constexpr uint8_t kHasFrom = 1;
constexpr uint8_t kHasTo = 2;

std::string encode_prefix() {
  std::string prefix(kMagic);
  append_be(prefix, kVersion);
  append_be(prefix, uint32_t{0});
  return prefix;
}

uint64_t checksum_of(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

void append_text(std::string& to, std::string_view text) {
  append_be(to, static_cast<uint16_t>(text.size()));
  to += text;
}

void append_point(std::string& to, const std::optional<SnapshotPoint>& point) {
  append_be(to, point ? point->id : 0);
  append_text(to, point ? std::string_view(point->name) : std::string_view());
}

// Takes fields in order; the first that is not there makes all the rest fail.
class Fields {
 public:
  explicit Fields(ByteView bytes) : rest_(as_text(bytes)) {}

  template <typename T>
  T take() {
    if (rest_.size() < sizeof(T)) {
      failed_ = true;
      return 0;
    }
    const T value = load_be<T>(rest_.data());
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  std::string take_text() {
    const auto length = take<uint16_t>();
    if (rest_.size() < length) failed_ = true;
    if (failed_) return {};
    std::string text(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return text;
  }
  SnapshotPoint take_point() {
    const auto id = take<uint64_t>();
    return {.name = take_text(), .id = id};
  }
  bool complete() const { return !failed_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool failed_ = false;
};

std::string encode_header(const StreamHeader& header) {
  std::string payload;
  append_be(payload, header.size_bytes);
  append_be(payload, header.block_bytes);
  append_be(payload, header.compression);
  append_be(payload, static_cast<uint8_t>((header.from ? kHasFrom : 0) | (header.to ? kHasTo : 0)));
  append_text(payload, header.volume);
  append_point(payload, header.from);
  append_point(payload, header.to);
  return payload;
}

std::optional<StreamHeader> decode_header(ByteView payload) {
  Fields fields(payload);
  StreamHeader header;
  header.size_bytes = fields.take<uint64_t>();
  header.block_bytes = fields.take<uint32_t>();
  header.compression = fields.take<uint8_t>();
  const auto flags = fields.take<uint8_t>();
  header.volume = fields.take_text();
  SnapshotPoint from = fields.take_point();
  SnapshotPoint to = fields.take_point();
  if (!fields.complete() || header.size_bytes > limits::kMaxVolumeBytes) return std::nullopt;
  if ((flags & kHasFrom) != 0) header.from = std::move(from);
  if ((flags & kHasTo) != 0) header.to = std::move(to);
  return header;
}

std::string encode_totals(const StreamTotals& totals) {
  std::string payload;
  append_be(payload, totals.records_count);
  append_be(payload, totals.data_bytes);
  append_be(payload, totals.zero_bytes);
  return payload;
}

}  // namespace

void StreamWriter::begin(std::string& out, const StreamHeader& header) {
  const std::string prefix = encode_prefix();
  out += prefix;
  state_ = {};
  state_.checksum = checksum_of(prefix, 0);
  state_.position_bytes = prefix.size();
  add_record(out, kTypeHeader, kCodecNone, 0, 0, as_bytes(encode_header(header)));
}

void StreamWriter::add_data(std::string& out, uint64_t offset_bytes, ByteView data) {
  ASSERT(data.size() <= limits::kMaxStreamDataBytes);
  const size_t room = data.size() - data.size() / kWorthwhileDivisor;
  compressed_.resize(room);
  const size_t written = ZSTD_compress(compressed_.data(), room, data.data(), data.size(), kZstdLevel);
  ++state_.totals.records_count;
  state_.totals.data_bytes += data.size();
  if (ZSTD_isError(written) != 0) {
    add_record(out, kTypeData, kCodecNone, offset_bytes, data.size(), data);
  } else {
    add_record(out, kTypeData, kCodecZstd, offset_bytes, data.size(),
               as_bytes(std::string_view(compressed_).substr(0, written)));
  }
}

void StreamWriter::add_zero(std::string& out, uint64_t offset_bytes, uint64_t length_bytes) {
  ++state_.totals.records_count;
  state_.totals.zero_bytes += length_bytes;
  add_record(out, kTypeZero, kCodecNone, offset_bytes, length_bytes, {});
}

void StreamWriter::end(std::string& out) {
  add_record(out, kTypeEnd, kCodecNone, 0, 0, as_bytes(encode_totals(state_.totals)));
}

void StreamWriter::add_record(std::string& out, char type, char codec, uint64_t offset_bytes,
                              uint64_t length_bytes, ByteView payload) {
  const size_t begin = out.size();
  out += type;
  out += codec;
  append_be(out, uint16_t{0});
  append_be(out, static_cast<uint32_t>(payload.size()));
  append_be(out, offset_bytes);
  append_be(out, length_bytes);
  out += as_text(payload);
  state_.checksum = checksum_of(std::string_view(out).substr(begin), state_.checksum);
  append_be(out, state_.checksum);
  state_.position_bytes += out.size() - begin;
  if (length_bytes > 0) state_.offset_bytes = offset_bytes + length_bytes;
}

tl::unexpected<Error> StreamReader::damaged(std::string_view why) const {
  return fail(Errc::corruption,
              fmt::format("the stream is damaged behind byte {}: {}", state_.position_bytes, why));
}

Result<void> StreamReader::read_exactly(MutableByteView into) {
  ASSIGN_OR_RETURN(const size_t count, input_.read(into));
  if (count < into.size()) return damaged("it ends there");
  return {};
}

Result<StreamHeader> StreamReader::read_header() {
  std::array<std::byte, kPrefixBytes> prefix{};
  ASSIGN_OR_RETURN(const size_t count, input_.read(prefix));
  const std::string_view text = as_text(ByteView(prefix).first(count));
  if (count < kPrefixBytes || !text.starts_with(kMagic))
    return fail(Errc::corruption, "it is no stream of export-diff");
  const auto version = load_be<uint32_t>(prefix.data() + kMagic.size());
  if (version != kVersion) {
    return fail(Errc::newer_format,
                fmt::format("the stream has version {}, this program knows {}", version, kVersion));
  }
  state_.checksum = checksum_of(text, 0);
  state_.position_bytes = kPrefixBytes;
  ASSIGN_OR_RETURN(const RawRecord raw, read_record());
  const auto header = decode_header(raw.payload);
  if (raw.type != kTypeHeader || !header) return damaged("its header makes no sense");
  size_bytes_ = header->size_bytes;
  return *header;
}

// Its checksum is right; what it says is not checked.
Result<StreamReader::RawRecord> StreamReader::read_record() {
  std::vector<std::byte> bytes(kRecordHeaderBytes);
  RETURN_IF_ERROR(read_exactly(bytes));
  const auto stored_bytes = load_be<uint32_t>(bytes.data() + 4);
  if (stored_bytes > limits::kMaxStreamDataBytes) return damaged("a record is too long");
  bytes.resize(kRecordHeaderBytes + stored_bytes + kChecksumBytes);
  RETURN_IF_ERROR(read_exactly(MutableByteView(bytes).subspan(kRecordHeaderBytes)));
  const std::string_view covered = as_text(bytes).substr(0, kRecordHeaderBytes + stored_bytes);
  const uint64_t checksum = checksum_of(covered, state_.checksum);
  if (checksum != load_be<uint64_t>(bytes.data() + covered.size()))
    return damaged("a checksum does not match");
  RawRecord raw{.type = covered[0],
                .codec = covered[1],
                .offset_bytes = load_be<uint64_t>(bytes.data() + 8),
                .length_bytes = load_be<uint64_t>(bytes.data() + 16),
                .payload = {}};
  state_.checksum = checksum;
  state_.position_bytes += bytes.size();
  raw.payload.assign(bytes.begin() + kRecordHeaderBytes,
                     bytes.begin() + static_cast<ptrdiff_t>(covered.size()));
  return raw;
}

Result<StreamRecord> StreamReader::next() {
  const StreamState before = state_;
  ASSIGN_OR_RETURN(RawRecord raw, read_record());
  StreamRecord record;
  if (raw.type == kTypeEnd) {
    RETURN_IF_ERROR(check_end(raw));
    return record;
  }
  record.offset_bytes = raw.offset_bytes;
  record.length_bytes = raw.length_bytes;
  if (raw.length_bytes == 0 || raw.offset_bytes < before.offset_bytes ||
      !range_fits(raw.offset_bytes, raw.length_bytes, size_bytes_)) {
    return damaged("a record is out of place");
  }
  if (raw.type == kTypeData) {
    RETURN_IF_ERROR(take_data(std::move(raw), record));
    state_.totals.data_bytes += record.length_bytes;
  } else if (raw.type == kTypeZero && raw.payload.empty()) {
    record.kind = StreamRecord::Kind::zero;
    state_.totals.zero_bytes += record.length_bytes;
  } else {
    return damaged("a record is of an unknown type");
  }
  ++state_.totals.records_count;
  state_.offset_bytes = record.offset_bytes + record.length_bytes;
  return record;
}

Result<void> StreamReader::check_end(const RawRecord& raw) {
  if (as_text(raw.payload) != encode_totals(state_.totals)) return damaged("its totals do not match");
  std::array<std::byte, 1> more{};
  ASSIGN_OR_RETURN(const size_t count, input_.read(more));
  if (count > 0) return damaged("something follows its end");
  return {};
}

Result<void> StreamReader::take_data(RawRecord raw, StreamRecord& record) {
  record.kind = StreamRecord::Kind::data;
  if (raw.length_bytes > limits::kMaxStreamDataBytes) return damaged("a record is too long");
  if (raw.codec == kCodecNone) {
    record.data = std::move(raw.payload);
  } else if (raw.codec == kCodecZstd) {
    record.data.resize(raw.length_bytes);
    const size_t written =
        ZSTD_decompress(record.data.data(), record.data.size(), raw.payload.data(), raw.payload.size());
    if (ZSTD_isError(written) != 0 || written != raw.length_bytes)
      return damaged("a record cannot be unpacked");
  } else {
    return damaged("a record is packed in an unknown way");
  }
  if (record.data.size() != raw.length_bytes) return damaged("a record has another length than it says");
  return {};
}

}  // namespace fdbnbd::backup
