#include "attach/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/nbd-netlink.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>

#include <array>
#include <string>

namespace fdbnbd::attach {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int kFamily = 29;

// A message as the kernel would take it apart.
struct Parsed {
  explicit Parsed(const Message& message) : header(nlmsg_hdr(message.get())) {
    generic = static_cast<const genlmsghdr*>(nlmsg_data(header));
    EXPECT_EQ(genlmsg_parse(header, 0, attributes.data(), NBD_ATTR_MAX, nullptr), 0);
  }

  bool has(int type) const { return attributes.at(static_cast<size_t>(type)) != nullptr; }
  uint64_t u64(int type) const {
    EXPECT_TRUE(has(type)) << type;
    return nla_get_u64(attributes.at(static_cast<size_t>(type)));
  }
  uint32_t u32(int type) const {
    EXPECT_TRUE(has(type)) << type;
    return nla_get_u32(attributes.at(static_cast<size_t>(type)));
  }
  std::string text(int type) const {
    EXPECT_TRUE(has(type)) << type;
    return nla_get_string(attributes.at(static_cast<size_t>(type)));
  }
  std::vector<uint32_t> sockets() const {
    std::vector<uint32_t> found;
    if (!has(NBD_ATTR_SOCKETS)) return found;
    nlattr* item = nullptr;
    int rest = 0;
    nla_for_each_nested(item, attributes[NBD_ATTR_SOCKETS], rest) {
      EXPECT_EQ(nla_type(item), NBD_SOCK_ITEM);
      std::array<nlattr*, NBD_SOCK_MAX + 1> one{};
      EXPECT_EQ(nla_parse_nested(one.data(), NBD_SOCK_MAX, item, nullptr), 0);
      found.push_back(nla_get_u32(one[NBD_SOCK_FD]));
    }
    return found;
  }

  nlmsghdr* header;
  const genlmsghdr* generic;
  std::array<nlattr*, NBD_ATTR_MAX + 1> attributes{};
};

TEST(Messages, ConnectHasAllThatTheKernelWants) {
  const Message message = connect_message(kFamily, {.index = 3,
                                                    .size_bytes = 5'000'000'000,
                                                    .block_bytes = 512,
                                                    .flags = 0x0105,
                                                    .timeouts = {.request_seconds = 10, .dead_seconds = 600},
                                                    .backend = "fdb-nbd:vol",
                                                    .sockets = {7, 9}});
  const Parsed parsed(message);
  EXPECT_EQ(parsed.header->nlmsg_type, kFamily);
  EXPECT_EQ(parsed.header->nlmsg_flags & NLM_F_REQUEST, NLM_F_REQUEST);
  EXPECT_EQ(parsed.generic->cmd, NBD_CMD_CONNECT);
  EXPECT_EQ(parsed.generic->version, NBD_GENL_VERSION);
  EXPECT_EQ(parsed.u32(NBD_ATTR_INDEX), 3U);
  EXPECT_EQ(parsed.u64(NBD_ATTR_SIZE_BYTES), 5'000'000'000U);
  EXPECT_EQ(parsed.u64(NBD_ATTR_BLOCK_SIZE_BYTES), 512U);
  EXPECT_EQ(parsed.u64(NBD_ATTR_SERVER_FLAGS), 0x0105U);
  EXPECT_EQ(parsed.u64(NBD_ATTR_TIMEOUT), 10U);
  EXPECT_EQ(parsed.u64(NBD_ATTR_DEAD_CONN_TIMEOUT), 600U);
  EXPECT_EQ(parsed.text(NBD_ATTR_BACKEND_IDENTIFIER), "fdb-nbd:vol");
  EXPECT_THAT(parsed.sockets(), ElementsAre(7, 9));
}

TEST(Messages, WithoutADeviceTheKernelChooses) {
  const Message message = connect_message(
      kFamily, {.index = {}, .size_bytes = 512, .flags = 1, .timeouts = {}, .backend = "x", .sockets = {4}});
  EXPECT_FALSE(Parsed(message).has(NBD_ATTR_INDEX));
}

TEST(Messages, TheLongestNameAndTheMostSocketsFit) {
  const std::string name(300, 'n');
  const Message message = connect_message(kFamily, {.index = 0,
                                                    .size_bytes = 512,
                                                    .flags = 1,
                                                    .timeouts = {},
                                                    .backend = name,
                                                    .sockets = std::vector<int>(16, 5)});
  const Parsed parsed(message);
  EXPECT_EQ(parsed.text(NBD_ATTR_BACKEND_IDENTIFIER), name);
  EXPECT_EQ(parsed.sockets().size(), 16U);
}

TEST(Messages, AReconfigureRepeatsWhatItMustNotChange) {
  const ReconfigureRequest request{.index = 5,
                                   .size_bytes = {},
                                   .timeouts = {.request_seconds = 15, .dead_seconds = 60},
                                   .backend = "fdb-nbd:vol",
                                   .sockets = {8}};
  const Message message = reconfigure_message(kFamily, request);
  const Parsed parsed(message);
  EXPECT_EQ(parsed.generic->cmd, NBD_CMD_RECONFIGURE);
  EXPECT_EQ(parsed.u32(NBD_ATTR_INDEX), 5U);
  EXPECT_FALSE(parsed.has(NBD_ATTR_SIZE_BYTES));
  EXPECT_FALSE(parsed.has(NBD_ATTR_CLIENT_FLAGS));
  EXPECT_EQ(parsed.u64(NBD_ATTR_TIMEOUT), 15U);
  EXPECT_EQ(parsed.u64(NBD_ATTR_DEAD_CONN_TIMEOUT), 60U);
  EXPECT_EQ(parsed.text(NBD_ATTR_BACKEND_IDENTIFIER), "fdb-nbd:vol");
  EXPECT_THAT(parsed.sockets(), ElementsAre(8));
}

TEST(Messages, AResizeHasASizeAndNoSockets) {
  const Message message = reconfigure_message(
      kFamily, {.index = 1, .size_bytes = 1 << 30, .timeouts = {}, .backend = "x", .sockets = {}});
  const Parsed parsed(message);
  EXPECT_EQ(parsed.u64(NBD_ATTR_SIZE_BYTES), 1U << 30);
  EXPECT_FALSE(parsed.has(NBD_ATTR_SOCKETS));
  EXPECT_THAT(parsed.sockets(), IsEmpty());
}

TEST(Messages, DisconnectNamesTheDevice) {
  const Message message = disconnect_message(kFamily, 11);
  const Parsed parsed(message);
  EXPECT_EQ(parsed.generic->cmd, NBD_CMD_DISCONNECT);
  EXPECT_EQ(parsed.u32(NBD_ATTR_INDEX), 11U);
}

// What the kernel sends.
Message from_kernel(uint8_t command, std::optional<uint32_t> index) {
  Message message(nlmsg_alloc());
  genlmsg_put(message.get(), 0, 0, kFamily, 0, 0, command, 0);
  if (index) nla_put_u32(message.get(), NBD_ATTR_INDEX, *index);
  return message;
}

TEST(Messages, TheKernelSaysWhichDeviceItIsAbout) {
  const Message connected = from_kernel(NBD_CMD_CONNECT, 12);
  EXPECT_EQ(read_connected(nlmsg_hdr(connected.get())), 12U);
  EXPECT_EQ(read_link_dead(nlmsg_hdr(connected.get())), std::nullopt);
  const Message dead = from_kernel(NBD_CMD_LINK_DEAD, 0);
  EXPECT_EQ(read_link_dead(nlmsg_hdr(dead.get())), 0U);
  EXPECT_EQ(read_connected(nlmsg_hdr(dead.get())), std::nullopt);
  const Message nameless = from_kernel(NBD_CMD_LINK_DEAD, std::nullopt);
  EXPECT_EQ(read_link_dead(nlmsg_hdr(nameless.get())), std::nullopt);
}

}  // namespace
}  // namespace fdbnbd::attach
