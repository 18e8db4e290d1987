#include "attach/messages.h"

#include <linux/nbd-netlink.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>

#include <array>

#include "base/assert.h"

namespace fdbnbd::attach {

namespace {

Message make_message(int family, uint8_t command, uint32_t index) {
  Message message(nlmsg_alloc());
  ASSERT(message != nullptr);
  ASSERT(genlmsg_put(message.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, NLM_F_REQUEST, command,
                     NBD_GENL_VERSION) != nullptr);
  if (index != UINT32_MAX) ASSERT(nla_put_u32(message.get(), NBD_ATTR_INDEX, index) == 0);
  return message;
}

// A message has room for a page, far more than kMaxDeviceConnections sockets and a volume's name take.
void put_u64(nl_msg* message, int type, uint64_t value) {
  ASSERT(nla_put_u64(message, type, value) == 0);
}

void put_timeouts(nl_msg* message, const DeviceTimeouts& timeouts) {
  put_u64(message, NBD_ATTR_TIMEOUT, timeouts.request_seconds);
  put_u64(message, NBD_ATTR_DEAD_CONN_TIMEOUT, timeouts.dead_seconds);
}

void put_backend(nl_msg* message, const std::string& backend) {
  ASSERT(nla_put_string(message, NBD_ATTR_BACKEND_IDENTIFIER, backend.c_str()) == 0);
}

void put_sockets(nl_msg* message, const std::vector<int>& sockets) {
  if (sockets.empty()) return;
  nlattr* const list = nla_nest_start(message, NBD_ATTR_SOCKETS);
  ASSERT(list != nullptr);
  for (const int socket : sockets) {
    nlattr* const item = nla_nest_start(message, NBD_SOCK_ITEM);
    ASSERT(item != nullptr);
    ASSERT(nla_put_u32(message, NBD_SOCK_FD, static_cast<uint32_t>(socket)) == 0);
    nla_nest_end(message, item);
  }
  nla_nest_end(message, list);
}

std::optional<uint32_t> read_index(nlmsghdr* header, uint8_t command) {
  std::array<nlattr*, NBD_ATTR_MAX + 1> attributes{};
  if (genlmsg_valid_hdr(header, 0) == 0) return std::nullopt;
  const auto* const generic = static_cast<const genlmsghdr*>(nlmsg_data(header));
  if (generic->cmd != command) return std::nullopt;
  if (genlmsg_parse(header, 0, attributes.data(), NBD_ATTR_MAX, nullptr) != 0) return std::nullopt;
  const nlattr* const index = attributes[NBD_ATTR_INDEX];
  if (index == nullptr || nla_len(index) < static_cast<int>(sizeof(uint32_t))) return std::nullopt;
  return nla_get_u32(index);
}

}  // namespace

void MessageDeleter::operator()(nl_msg* message) const {
  nlmsg_free(message);
}

Message connect_message(int family, const ConnectRequest& request) {
  Message message = make_message(family, NBD_CMD_CONNECT, request.index.value_or(UINT32_MAX));
  put_u64(message.get(), NBD_ATTR_SIZE_BYTES, request.size_bytes);
  put_u64(message.get(), NBD_ATTR_BLOCK_SIZE_BYTES, request.block_bytes);
  put_u64(message.get(), NBD_ATTR_SERVER_FLAGS, request.flags);
  put_timeouts(message.get(), request.timeouts);
  put_backend(message.get(), request.backend);
  put_sockets(message.get(), request.sockets);
  return message;
}

Message reconfigure_message(int family, const ReconfigureRequest& request) {
  Message message = make_message(family, NBD_CMD_RECONFIGURE, request.index);
  if (request.size_bytes) put_u64(message.get(), NBD_ATTR_SIZE_BYTES, *request.size_bytes);
  put_timeouts(message.get(), request.timeouts);
  put_backend(message.get(), request.backend);
  put_sockets(message.get(), request.sockets);
  return message;
}

Message disconnect_message(int family, uint32_t index) {
  return make_message(family, NBD_CMD_DISCONNECT, index);
}

std::optional<uint32_t> read_connected(nlmsghdr* header) {
  return read_index(header, NBD_CMD_CONNECT);
}

std::optional<uint32_t> read_link_dead(nlmsghdr* header) {
  return read_index(header, NBD_CMD_LINK_DEAD);
}

}  // namespace fdbnbd::attach
