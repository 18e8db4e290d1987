#include "volume/keys.h"

#include "base/assert.h"
#include "base/endian.h"

namespace fdbnbd::volume {

namespace {

constexpr size_t kExtentBytes = 6;
constexpr size_t kBlockBytes = 7;

void append_tail(std::string& to, uint64_t value, size_t bytes_count) {
  char bytes[8];
  store_be(bytes, value);
  to.append(bytes + 8 - bytes_count, bytes_count);
}

uint64_t load_tail(std::string_view key, size_t bytes_count) {
  char bytes[8] = {};
  key.substr(key.size() - bytes_count).copy(bytes + 8 - bytes_count, bytes_count);
  return load_be<uint64_t>(bytes);
}

}  // namespace

std::string KeySpace::with_id(char type, uint64_t id) const {
  std::string key;
  key.reserve(prefix_.size() + 9);
  key = prefix_;
  key += type;
  append_be(key, id);
  return key;
}

std::string KeySpace::bitmap(LayerId layer, uint64_t extent_index) const {
  std::string key = with_id('B', layer.value);
  append_tail(key, extent_index, kExtentBytes);
  return key;
}

void KeySpace::append_block(std::string& to, LayerId layer, Striping striping, uint64_t block_index) const {
  to += prefix_;
  to += 'D';
  append_be(to, layer.value);
  to += static_cast<char>(block_index / limits::kBlocksPerExtent % striping.stripes_count);
  append_tail(to, block_index, kBlockBytes);
}

std::string KeySpace::block(LayerId layer, Striping striping, uint64_t block_index) const {
  std::string key;
  key.reserve(block_key_bytes());
  append_block(key, layer, striping, block_index);
  return key;
}

std::string KeySpace::stripe_block(LayerId layer, uint32_t stripe, uint64_t block_index) const {
  std::string key = with_id('D', layer.value);
  key += static_cast<char>(stripe);
  append_tail(key, block_index, kBlockBytes);
  return key;
}

std::string KeySpace::child(LayerId parent, LayerId child) const {
  std::string key = with_id('C', parent.value);
  append_be(key, child.value);
  return key;
}

std::string KeySpace::layer_end(char type, LayerId layer) const {
  if (layer.value == UINT64_MAX) return type_end(type);
  return with_id(type, layer.value + 1);
}

std::optional<uint64_t> KeySpace::id_of(std::string_view key) const {
  if (key.size() != prefix_.size() + 9) return std::nullopt;
  return load_be<uint64_t>(key.data() + prefix_.size() + 1);
}

std::optional<uint64_t> KeySpace::extent_of_bitmap(std::string_view key) const {
  if (key.size() != prefix_.size() + 9 + kExtentBytes) return std::nullopt;
  return load_tail(key, kExtentBytes);
}

std::optional<KeySpace::SnapshotKey> KeySpace::snapshot_of(std::string_view key) const {
  const size_t fixed_bytes = prefix_.size() + 9;
  if (key.size() <= fixed_bytes) return std::nullopt;
  return SnapshotKey{VolumeId{load_be<uint64_t>(key.data() + prefix_.size() + 1)}, key.substr(fixed_bytes)};
}

std::optional<KeySpace::ChildKey> KeySpace::child_of(std::string_view key) const {
  if (key.size() != prefix_.size() + 17) return std::nullopt;
  return ChildKey{LayerId{load_be<uint64_t>(key.data() + prefix_.size() + 1)},
                  LayerId{load_be<uint64_t>(key.data() + prefix_.size() + 9)}};
}

uint64_t KeySpace::block_of(std::string_view key) {
  ASSERT(key.size() >= kBlockSuffixBytes);
  return load_tail(key, kBlockBytes);
}

}  // namespace fdbnbd::volume
