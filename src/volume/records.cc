#include "volume/records.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>

#include "base/endian.h"

namespace fdbnbd::volume {

namespace {

constexpr size_t kChecksumBytes = 8;
constexpr uint8_t kSnapshotRecordVersion = 3;  // 1 has no original's id, 2 no stale end
constexpr uint8_t kVolumeRecordVersion = 3;    // 1 has no trash, quota and labels, 2 no stale end

class Writer {
 public:
  explicit Writer(char kind, uint8_t version = 1) {
    value_ += kind;
    value_ += static_cast<char>(version);
  }

  template <typename T>
  Writer& put(T field) {
    append_be(value_, field);
    return *this;
  }
  Writer& put(const std::array<uint8_t, 16>& bytes) {
    value_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return *this;
  }
  // What is longer than `limit_bytes` is cut.
  Writer& put(const std::string& text, uint8_t limit_bytes = UINT8_MAX) {
    const auto bytes_count = static_cast<uint8_t>(std::min<size_t>(text.size(), limit_bytes));
    put(bytes_count);
    value_.append(text, 0, bytes_count);
    return *this;
  }
  Writer& put(WallTime time) { return put(static_cast<uint64_t>(time.time_since_epoch().count())); }

  std::string finish() {
    append_be(value_, uint64_t{XXH3_64bits(value_.data(), value_.size())});
    return std::move(value_);
  }

 private:
  std::string value_;
};

class Reader {
 public:
  // Checks the frame; afterwards the fields are taken in order.
  static Result<Reader> open(char kind, std::string_view what, std::string_view value,
                             uint8_t known_version = 1) {
    if (value.size() < 2 + kChecksumBytes || value[0] != kind) {
      return fail(Errc::corruption, fmt::format("the {} record is damaged: wrong form", what));
    }
    const std::string_view covered = value.substr(0, value.size() - kChecksumBytes);
    if (XXH3_64bits(covered.data(), covered.size()) != load_be<uint64_t>(value.data() + covered.size())) {
      return fail(Errc::corruption, fmt::format("the {} record is damaged: checksum does not match", what));
    }
    const auto version = static_cast<uint8_t>(value[1]);
    if (version > known_version) {
      return fail(Errc::newer_format, fmt::format("the {} record has version {}, this program knows {}", what,
                                                  version, known_version));
    }
    return Reader(what, version, covered.substr(2));
  }

  uint8_t version() const { return version_; }

  template <typename T>
  Reader& take(T& field) {
    if (rest_.size() < sizeof(T)) {
      failed_ = true;
    } else {
      field = load_be<T>(rest_.data());
      rest_.remove_prefix(sizeof(T));
    }
    return *this;
  }
  Reader& take(std::array<uint8_t, 16>& bytes) {
    if (rest_.size() < bytes.size()) {
      failed_ = true;
    } else {
      std::memcpy(bytes.data(), rest_.data(), bytes.size());
      rest_.remove_prefix(bytes.size());
    }
    return *this;
  }
  Reader& take(std::string& text) {
    uint8_t bytes_count = 0;
    take(bytes_count);
    if (rest_.size() < bytes_count) {
      failed_ = true;
    } else {
      text = rest_.substr(0, bytes_count);
      rest_.remove_prefix(bytes_count);
    }
    return *this;
  }
  Reader& take(WallTime& time) {
    uint64_t count = 0;
    take(count);
    time = WallTime(Duration(static_cast<int64_t>(count)));
    return *this;
  }

  // Whether all was there, and `valid` holds for what it said.
  Result<void> finish(bool valid = true) const {
    if (failed_ || !rest_.empty() || !valid) {
      return fail(Errc::corruption, fmt::format("the {} record is damaged: impossible contents", what_));
    }
    return {};
  }

 private:
  Reader(std::string_view what, uint8_t version, std::string_view rest)
      : what_(what), version_(version), rest_(rest) {}

  std::string_view what_;
  uint8_t version_;
  std::string_view rest_;
  bool failed_ = false;
};

bool valid_block_shift(uint8_t shift) {
  return shift < 32 && (uint32_t{1} << shift) >= limits::kMinBlockBytes &&
         (uint32_t{1} << shift) <= limits::kMaxBlockBytes;
}

bool valid_size(uint64_t size_bytes) {
  return size_bytes <= limits::kMaxVolumeBytes && size_bytes % limits::kSizeGranularityBytes == 0;
}

// With the size it lies behind.
bool valid_stale_end(uint64_t stale_end_bytes, uint64_t size_bytes) {
  return stale_end_bytes == 0 || (stale_end_bytes > size_bytes && valid_size(stale_end_bytes));
}

bool valid_striping(uint16_t stripes_count) {
  return stripes_count >= 1 && stripes_count <= 256;
}

}  // namespace

std::string StoreHeader::encode() const {
  return Writer('S').put(format_version).put(uuid).put(created).finish();
}

Result<StoreHeader> StoreHeader::decode(std::string_view value) {
  StoreHeader header;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('S', "store", value));
  RETURN_IF_ERROR(reader.take(header.format_version).take(header.uuid).take(header.created).finish());
  return header;
}

std::string NameRecord::encode() const {
  return Writer('V').put(volume.value).finish();
}

Result<NameRecord> NameRecord::decode(std::string_view value) {
  NameRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('V', "name", value));
  RETURN_IF_ERROR(reader.take(record.volume.value).finish(true));
  return record;
}

std::string VolumeRecord::encode() const {
  uint8_t version = !is_trashed && quota_bytes == 0 && labels.empty() ? 1 : 2;
  if (stale_end_bytes != 0) version = kVolumeRecordVersion;
  Writer writer('I', version);
  writer.put(id.value)
      .put(size_bytes)
      .put(block_shift)
      .put(static_cast<uint8_t>(compression))
      .put(static_cast<uint16_t>(striping.stripes_count))
      .put(created);
  if (version == 1) return writer.finish();
  writer.put(static_cast<uint8_t>(is_trashed ? 1 : 0)).put(quota_bytes);
  writer.put(static_cast<uint8_t>(labels.size()));
  for (const auto& [key, value] : labels) writer.put(key).put(value);
  if (version >= 3) writer.put(stale_end_bytes);
  return writer.finish();
}

Result<VolumeRecord> VolumeRecord::decode(std::string_view value) {
  VolumeRecord record;
  uint8_t compression = 0;
  uint16_t stripes_count = 0;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('I', "volume", value, kVolumeRecordVersion));
  reader.take(record.id.value)
      .take(record.size_bytes)
      .take(record.block_shift)
      .take(compression)
      .take(stripes_count)
      .take(record.created);
  uint8_t is_trashed = 0;
  uint8_t labels_count = 0;
  if (reader.version() >= 2) {
    reader.take(is_trashed).take(record.quota_bytes).take(labels_count);
    for (uint8_t i = 0; i < labels_count; ++i) {
      std::string key;
      reader.take(key).take(record.labels[key]);
    }
  }
  if (reader.version() >= 3) reader.take(record.stale_end_bytes);
  const bool valid = valid_block_shift(record.block_shift) && valid_striping(stripes_count) &&
                     compression <= 2 && valid_size(record.size_bytes) && is_trashed <= 1 &&
                     record.labels.size() == labels_count &&
                     valid_stale_end(record.stale_end_bytes, record.size_bytes);
  RETURN_IF_ERROR(reader.finish(valid));
  record.compression = static_cast<Compression>(compression);
  record.striping.stripes_count = stripes_count;
  record.is_trashed = is_trashed == 1;
  return record;
}

std::string FenceRecord::encode() const {
  return Writer('F').put(epoch).put(barrier).put(owner).put(top_layer.value).finish();
}

Result<FenceRecord> FenceRecord::decode(std::string_view value) {
  FenceRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('F', "fence", value));
  RETURN_IF_ERROR(reader.take(record.epoch)
                      .take(record.barrier)
                      .take(record.owner)
                      .take(record.top_layer.value)
                      .finish());
  return record;
}

std::string HeartbeatRecord::encode() const {
  return Writer('H')
      .put(owner)
      .put(counter)
      .put(lease_duration_ms)
      .put(process.host)
      .put(process.pid)
      .put(process.started)
      .put(holder, limits::kMaxHolderBytes)
      .finish();
}

Result<HeartbeatRecord> HeartbeatRecord::decode(std::string_view value) {
  HeartbeatRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('H', "heartbeat", value));
  RETURN_IF_ERROR(reader.take(record.owner)
                      .take(record.counter)
                      .take(record.lease_duration_ms)
                      .take(record.process.host)
                      .take(record.process.pid)
                      .take(record.process.started)
                      .take(record.holder)
                      .finish());
  return record;
}

std::string HandoverRecord::encode() const {
  return Writer('Q').put(requester).put(holder, limits::kMaxHolderBytes).finish();
}

Result<HandoverRecord> HandoverRecord::decode(std::string_view value) {
  HandoverRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('Q', "handover", value));
  RETURN_IF_ERROR(reader.take(record.requester).take(record.holder).finish());
  return record;
}

std::string LayerRecord::encode() const {
  return Writer('L')
      .put(parent.value)
      .put(static_cast<uint8_t>(state))
      .put(origin.value)
      .put(block_shift)
      .put(static_cast<uint16_t>(striping.stripes_count))
      .finish();
}

Result<LayerRecord> LayerRecord::decode(std::string_view value) {
  LayerRecord record;
  uint8_t state = 0;
  uint16_t stripes_count = 0;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('L', "layer", value));
  reader.take(record.parent.value)
      .take(state)
      .take(record.origin.value)
      .take(record.block_shift)
      .take(stripes_count);
  RETURN_IF_ERROR(
      reader.finish(state <= 2 && valid_block_shift(record.block_shift) && valid_striping(stripes_count)));
  record.state = static_cast<LayerState>(state);
  record.striping.stripes_count = stripes_count;
  return record;
}

std::string SnapshotRecord::encode() const {
  uint8_t version = original_id == 0 ? 1 : 2;
  if (stale_end_bytes != 0) version = kSnapshotRecordVersion;
  Writer writer('N', version);
  writer.put(layer.value).put(size_bytes).put(created).put(sequence);
  if (version >= 2) writer.put(original_id);
  if (version >= 3) writer.put(stale_end_bytes);
  return writer.finish();
}

Result<SnapshotRecord> SnapshotRecord::decode(std::string_view value) {
  SnapshotRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('N', "snapshot", value, kSnapshotRecordVersion));
  reader.take(record.layer.value).take(record.size_bytes).take(record.created).take(record.sequence);
  if (reader.version() >= 2) reader.take(record.original_id);
  if (reader.version() >= 3) reader.take(record.stale_end_bytes);
  RETURN_IF_ERROR(reader.finish(valid_size(record.size_bytes) &&
                                valid_stale_end(record.stale_end_bytes, record.size_bytes)));
  return record;
}

std::string ChildRecord::encode() const {
  return Writer('C').finish();
}

Result<ChildRecord> ChildRecord::decode(std::string_view value) {
  ASSIGN_OR_RETURN(const Reader reader, Reader::open('C', "child", value));
  RETURN_IF_ERROR(reader.finish());
  return ChildRecord{};
}

std::string UsageRecord::encode() const {
  return Writer('U').put(data_blocks_count).finish();
}

Result<UsageRecord> UsageRecord::decode(std::string_view value) {
  UsageRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('U', "usage", value));
  RETURN_IF_ERROR(reader.take(record.data_blocks_count).finish());
  return record;
}

std::string TrashRecord::encode() const {
  return Writer('X').put(name).put(trashed).put(expires).finish();
}

Result<TrashRecord> TrashRecord::decode(std::string_view value) {
  TrashRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('X', "trash", value));
  RETURN_IF_ERROR(reader.take(record.name).take(record.trashed).take(record.expires).finish());
  return record;
}

std::string GroupRecord::encode() const {
  Writer writer('G');
  writer.put(static_cast<uint16_t>(members.size()));
  for (const VolumeId member : members) writer.put(member.value);
  return writer.finish();
}

Result<GroupRecord> GroupRecord::decode(std::string_view value) {
  GroupRecord record;
  uint16_t members_count = 0;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('G', "group", value));
  reader.take(members_count);
  const bool valid = members_count <= limits::kMaxGroupMembers;
  for (uint16_t i = 0; valid && i < members_count; ++i) reader.take(record.members.emplace_back().value);
  RETURN_IF_ERROR(reader.finish(valid));
  return record;
}

std::string ReceiptRecord::encode() const {
  return Writer('R').put(attempt).put(created).finish();
}

Result<ReceiptRecord> ReceiptRecord::decode(std::string_view value) {
  ReceiptRecord record;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('R', "receipt", value));
  RETURN_IF_ERROR(reader.take(record.attempt).take(record.created).finish());
  return record;
}

std::string JobRecord::encode() const {
  return Writer('T').put(static_cast<uint8_t>(kind)).put(layer.value).finish();
}

Result<JobRecord> JobRecord::decode(std::string_view value) {
  JobRecord record;
  uint8_t kind = 0;
  ASSIGN_OR_RETURN(Reader reader, Reader::open('T', "job", value));
  reader.take(kind).take(record.layer.value);
  RETURN_IF_ERROR(reader.finish(kind >= static_cast<uint8_t>(JobKind::reclaim_layer) &&
                                kind <= static_cast<uint8_t>(JobKind::merge_layer)));
  record.kind = static_cast<JobKind>(kind);
  return record;
}

}  // namespace fdbnbd::volume
