#include "kv/mutations.h"

#include <algorithm>

#include "base/assert.h"

namespace fdbnbd::kv {

std::string key_after(std::string_view key) {
  std::string after;
  after.reserve(key.size() + 1);
  after.append(key);
  after.push_back('\0');
  return after;
}

void MutationList::add(MutationKind kind, std::string_view key, std::string_view value, bool conflicts) {
  ASSERT(key.size() <= UINT32_MAX && value.size() <= UINT32_MAX);
  entries_.push_back({bytes_.size(), static_cast<uint32_t>(key.size()), static_cast<uint32_t>(value.size()),
                      kind, conflicts});
  bytes_.append(key);
  bytes_.append(value);
}

Mutation MutationList::operator[](size_t index) const {
  const Entry& entry = entries_[index];
  const std::string_view bytes = bytes_;
  return {entry.kind, entry.conflicts, bytes.substr(entry.offset, entry.key_bytes),
          bytes.substr(entry.offset + entry.key_bytes, entry.value_bytes)};
}

std::string apply_bits(MutationKind kind, std::optional<std::string_view> old_value,
                       std::string_view operand) {
  ASSERT(kind == MutationKind::bit_or || kind == MutationKind::bit_and);
  std::string result(operand);
  if (!old_value) return result;
  const size_t common_bytes = std::min(old_value->size(), operand.size());
  if (kind == MutationKind::bit_or) {
    for (size_t i = 0; i < common_bytes; ++i) result[i] = static_cast<char>(result[i] | (*old_value)[i]);
  } else {
    for (size_t i = 0; i < common_bytes; ++i) result[i] = static_cast<char>(result[i] & (*old_value)[i]);
    std::fill(result.begin() + static_cast<std::ptrdiff_t>(common_bytes), result.end(), '\0');
  }
  return result;
}

}  // namespace fdbnbd::kv
