#include "base/bytes.h"

namespace fdbnbd {

bool is_all_zero(ByteView bytes) {
  if (bytes.empty()) return true;
  // memcmp of the range with itself shifted by one byte compares every byte with its neighbour.
  return bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace fdbnbd
