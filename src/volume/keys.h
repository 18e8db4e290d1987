#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/limits.h"

// Every key the product writes (docs/format.md, "Keys"). Integers are big-endian, so that keys sort as
// numbers do.

namespace fdbnbd::volume {

struct VolumeId {
  uint64_t value = 0;
  auto operator<=>(const VolumeId&) const = default;
};

// A layer holds the blocks written between two snapshots. Only the top layer of a volume is written.
struct LayerId {
  uint64_t value = 0;
  auto operator<=>(const LayerId&) const = default;
};

struct JobId {
  uint64_t value = 0;
  auto operator<=>(const JobId&) const = default;
};

// A transaction of a verb, whichever of its attempts happens.
struct ReceiptId {
  uint64_t value = 0;
  auto operator<=>(const ReceiptId&) const = default;
};

// Where a layer's blocks go: extents are dealt out to `stripes_count` contiguous parts of the key space, so
// that a sequential stream does not hit one storage server. 1 to 256; constant for a layer.
struct Striping {
  uint32_t stripes_count = 1;
};

class KeySpace {
 public:
  explicit KeySpace(std::string prefix) : prefix_(std::move(prefix)) {}

  const std::string& prefix() const { return prefix_; }

  std::string store_header() const { return prefix_ + 'S'; }
  std::string name(std::string_view volume_name) const { return prefix_ + 'V' + std::string(volume_name); }
  std::string volume(VolumeId id) const { return with_id('I', id.value); }
  std::string fence(VolumeId id) const { return with_id('F', id.value); }
  std::string heartbeat(VolumeId id) const { return with_id('H', id.value); }
  std::string handover(VolumeId id) const { return with_id('Q', id.value); }
  std::string layer(LayerId id) const { return with_id('L', id.value); }
  std::string usage(LayerId id) const { return with_id('U', id.value); }
  std::string trash(VolumeId id) const { return with_id('X', id.value); }
  std::string group(std::string_view group_name) const { return prefix_ + 'G' + std::string(group_name); }
  std::string job(JobId id) const { return with_id('T', id.value); }
  std::string receipt(ReceiptId id) const { return with_id('R', id.value); }
  std::string snapshot(VolumeId volume, std::string_view snapshot_name) const {
    return with_id('N', volume.value).append(snapshot_name);
  }
  std::string child(LayerId parent, LayerId child) const;
  std::string bitmap(LayerId layer, uint64_t extent_index) const;
  std::string block(LayerId layer, Striping striping, uint64_t block_index) const;
  // The first key of a stripe's blocks from `block_index` on, whichever extents lie in it.
  std::string stripe_block(LayerId layer, uint32_t stripe, uint64_t block_index) const;

  // All keys of one type: [begin, end).
  std::string type_begin(char type) const { return prefix_ + type; }
  std::string type_end(char type) const { return prefix_ + static_cast<char>(type + 1); }
  // Behind all keys of one layer's bitmaps ('B') or blocks ('D').
  std::string layer_begin(char type, LayerId layer) const { return with_id(type, layer.value); }
  std::string layer_end(char type, LayerId layer) const;
  // All snapshots of one volume, and all children of one layer.
  std::string snapshots_begin(VolumeId volume) const { return with_id('N', volume.value); }
  std::string snapshots_end(VolumeId volume) const { return with_id('N', volume.value + 1); }
  std::string children_begin(LayerId parent) const { return with_id('C', parent.value); }
  std::string children_end(LayerId parent) const { return layer_end('C', parent); }

  // The parts of a key that this key space made; the caller knows its type.
  std::string_view name_of(std::string_view key) const { return key.substr(prefix_.size() + 1); }
  // Nothing where the key is not of that form.
  std::optional<uint64_t> id_of(std::string_view key) const;
  std::optional<uint64_t> extent_of_bitmap(std::string_view key) const;
  struct SnapshotKey {
    VolumeId volume;
    std::string_view name;
  };
  std::optional<SnapshotKey> snapshot_of(std::string_view key) const;
  struct ChildKey {
    LayerId parent;
    LayerId child;
  };
  std::optional<ChildKey> child_of(std::string_view key) const;
  // The block index of a 'D' key: its last bytes.
  static uint64_t block_of(std::string_view key);

  // A block's key, for building many without allocating.
  static constexpr size_t kBlockSuffixBytes = 1 + 8 + 1 + 7;
  size_t block_key_bytes() const { return prefix_.size() + kBlockSuffixBytes; }
  // Appends the block's key to `to`.
  void append_block(std::string& to, LayerId layer, Striping striping, uint64_t block_index) const;

 private:
  std::string with_id(char type, uint64_t id) const;

  std::string prefix_;
};

// Keys in [begin, end) for the single key `key`.
inline std::string key_after(std::string_view key) {
  return std::string(key) + '\0';
}

}  // namespace fdbnbd::volume
