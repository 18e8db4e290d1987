#include "cli/load_connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/text.h"
#include "proto/handshake.h"
#include "proto/option.h"
#include "proto/reply.h"

namespace fdbnbd::cli {
namespace {

using proto::Command;
using proto::NbdError;
using testing::ElementsAre;
using testing::HasSubstr;

std::string greeting_and_agreement(uint64_t size_bytes) {
  std::array<std::byte, proto::kGreetingBytes> hello{};
  proto::encode_greeting(hello);
  std::array<std::byte, proto::kInfoExportBytes> info{};
  proto::encode_info_export(info, size_bytes, proto::kFlagHasFlags);
  std::string script(as_text(hello));
  std::array<std::byte, proto::kOptionReplyHeaderBytes> header{};
  proto::encode_option_reply_header(header, proto::Option::go, proto::OptionReply::info, info.size());
  script.append(as_text(header)).append(as_text(info));
  proto::encode_option_reply_header(header, proto::Option::go, proto::OptionReply::ack, 0);
  return script.append(as_text(header));
}

std::string reply(uint64_t cookie, NbdError error = NbdError::ok) {
  std::array<std::byte, proto::kSimpleReplyBytes> bytes{};
  proto::encode_simple_reply(bytes, cookie, error);
  return std::string(as_text(bytes));
}

// A connection past the handshake, and the server's end of it, which says what it is told to.
class LoadConnectionTest : public testing::Test {
 protected:
  LoadConnectionTest() {
    int sockets[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    server = net::OwnedFd(sockets[1]);
    say(greeting_and_agreement(limits::kMiB));
    auto opened = LoadConnection::open(net::OwnedFd(sockets[0]), "vol", 4);
    EXPECT_TRUE(opened.has_value());
    connection.emplace(std::move(*opened));
    heard();
  }

  void say(std::string_view text) const {
    ASSERT_EQ(::send(server.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  // All that has been sent to the server.
  std::string heard() const {
    std::string text(limits::kMiB, '\0');
    const ssize_t count = ::recv(server.get(), text.data(), text.size(), MSG_DONTWAIT);
    text.resize(count > 0 ? static_cast<size_t>(count) : 0);
    return text;
  }
  std::vector<uint32_t> wait() {
    const auto ended = connection->wait();
    EXPECT_TRUE(ended.has_value()) << ended.error().what;
    return ended ? std::vector<uint32_t>(ended->begin(), ended->end()) : std::vector<uint32_t>();
  }

  net::OwnedFd server;
  std::optional<LoadConnection> connection;
};

std::string request(Command command, uint64_t cookie, uint64_t offset_bytes, uint32_t length_bytes) {
  std::array<std::byte, proto::kRequestBytes> bytes{};
  proto::encode_request(
      bytes,
      {.command = command, .cookie = cookie, .offset_bytes = offset_bytes, .length_bytes = length_bytes});
  return std::string(as_text(bytes));
}

TEST_F(LoadConnectionTest, RequestsAreSentWithTheirDataAndEndWithTheirReplies) {
  const std::string data(100, 'd');
  connection->begin_write(0, 4096, as_bytes(data));
  connection->begin_read(3, 8192, 10);
  EXPECT_EQ(connection->in_flight_count(), 2);
  say(reply(3) + std::string(10, 'r') + reply(0));
  EXPECT_THAT(wait(), ElementsAre(3, 0));
  EXPECT_EQ(heard(), request(Command::write, 0, 4096, 100) + data + request(Command::read, 3, 8192, 10));
  EXPECT_EQ(connection->in_flight_count(), 0);
  EXPECT_EQ(connection->size_bytes(), limits::kMiB);
}

TEST_F(LoadConnectionTest, ARepliesBorderMayBeAnywhere) {
  const std::string first = reply(2);
  const std::string replies = first + reply(1) + std::string(30, 'r') + reply(0) + std::string(20, 'r');
  const std::string data(8, 'd');
  for (size_t cut = first.size(); cut <= replies.size(); ++cut) {
    connection->begin_read(0, 0, 20);
    connection->begin_read(1, 4096, 30);
    connection->begin_write(2, 0, as_bytes(data));
    say(replies.substr(0, cut));
    std::vector<uint32_t> ended = wait();
    say(replies.substr(cut));
    while (connection->in_flight_count() > 0) {
      const auto more = wait();
      ended.insert(ended.end(), more.begin(), more.end());
    }
    EXPECT_THAT(ended, ElementsAre(2, 1, 0)) << cut;
  }
}

TEST_F(LoadConnectionTest, MoreThanTheSocketTakesIsSentWhileRepliesCome) {
  const std::vector<std::byte> data(limits::kMiB, std::byte{'d'});
  connection->begin_read(0, 0, 10);
  connection->begin_write(1, 0, data);
  say(reply(0) + std::string(10, 'r'));
  EXPECT_THAT(wait(), ElementsAre(0));
  size_t heard_bytes = heard().size();
  EXPECT_LT(heard_bytes, data.size());
  while (heard_bytes < 2 * proto::kRequestBytes + data.size()) {
    connection->begin_read(0, 0, 10);
    say(reply(0) + std::string(10, 'r'));
    EXPECT_THAT(wait(), ElementsAre(0));
    heard_bytes += heard().size();
  }
  say(reply(1));
  EXPECT_THAT(wait(), ElementsAre(1));
}

TEST_F(LoadConnectionTest, ARequestThatFailsIsTold) {
  connection->begin_read(0, 4096, 512);
  say(reply(0, NbdError::eio));
  const auto ended = connection->wait();
  ASSERT_FALSE(ended.has_value());
  EXPECT_EQ(ended.error().code, Errc::io);
  EXPECT_THAT(ended.error().what, HasSubstr("a read of 512 bytes at offset 4096 failed"));
}

TEST_F(LoadConnectionTest, AnAnswerToNothingBreaksTheProtocol) {
  for (const std::string& answer : {reply(1), reply(4), std::string(proto::kSimpleReplyBytes, 'x')}) {
    if (connection->in_flight_count() == 0) connection->begin_read(0, 0, 1);
    say(answer);
    const auto ended = connection->wait();
    ASSERT_FALSE(ended.has_value());
    EXPECT_EQ(ended.error().code, Errc::protocol);
  }
}

TEST_F(LoadConnectionTest, AServerThatGoesAwayIsGone) {
  connection->begin_read(0, 0, 1);
  server.reset();
  const auto ended = connection->wait();
  ASSERT_FALSE(ended.has_value());
  EXPECT_EQ(ended.error().code, Errc::peer_gone);
}

TEST_F(LoadConnectionTest, TheEndIsAGoodBye) {
  connection.reset();
  EXPECT_EQ(heard(), request(Command::disc, 0, 0, 0));
}

}  // namespace
}  // namespace fdbnbd::cli
