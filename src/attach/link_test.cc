#include "attach/link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <thread>

#include "base/endian.h"
#include "net/dial.h"
#include "proto/option.h"

namespace fdbnbd::attach {
namespace {

using proto::ExportTerms;
using proto::Option;
using proto::OptionReply;
using testing::HasSubstr;

constexpr uint64_t kSizeBytes = 1 << 30;
constexpr uint16_t kFlags = proto::kFlagHasFlags | proto::kFlagCanMultiConn;

std::string greeting() {
  std::array<std::byte, proto::kGreetingBytes> bytes{};
  proto::encode_greeting(bytes);
  return std::string(as_text(bytes));
}

std::string reply(Option option, OptionReply type, std::string_view payload = {}) {
  std::array<std::byte, proto::kOptionReplyHeaderBytes> bytes{};
  proto::encode_option_reply_header(bytes, option, type, static_cast<uint32_t>(payload.size()));
  return std::string(as_text(bytes)).append(payload);
}

std::string export_info(uint64_t size_bytes = kSizeBytes) {
  std::array<std::byte, proto::kInfoExportBytes> bytes{};
  proto::encode_info_export(bytes, size_bytes, kFlags);
  return std::string(as_text(bytes));
}

std::string agreement(Option option, uint64_t size_bytes = kSizeBytes) {
  return greeting() + reply(option, OptionReply::info, export_info(size_bytes)) +
         reply(option, OptionReply::ack);
}

struct Pair {
  Pair() {
    int sockets[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    client = net::OwnedFd(sockets[0]);
    server = net::OwnedFd(sockets[1]);
  }
  net::OwnedFd client;
  net::OwnedFd server;
};

// What a client makes of a server that says all this at once and then closes; what the client said goes to
// `said`.
Result<ExportTerms> negotiate_with(const std::string& script, Option option, std::string* said = nullptr) {
  Pair pair;
  EXPECT_EQ(::send(pair.server.get(), script.data(), script.size(), 0), static_cast<ssize_t>(script.size()));
  ::shutdown(pair.server.get(), SHUT_WR);
  auto terms = negotiate(pair.client.get(), "vol", option);
  pair.client.reset();
  if (said != nullptr) {
    said->resize(4096);
    said->resize(static_cast<size_t>(::recv(pair.server.get(), said->data(), said->size(), MSG_WAITALL)));
  }
  return terms;
}

TEST(Negotiate, AgreesOnTheExport) {
  std::string said;
  const auto terms = negotiate_with(agreement(Option::go), Option::go, &said);
  ASSERT_TRUE(terms.has_value()) << terms.error().what;
  EXPECT_EQ(*terms, (ExportTerms{.size_bytes = kSizeBytes, .flags = kFlags}));
  EXPECT_EQ(said, std::string("\0\0\0\3", 4) + proto::encode_info_option(Option::go, "vol"));
}

TEST(Negotiate, ALookEndsWithAGoodBye) {
  std::string said;
  ASSERT_TRUE(negotiate_with(agreement(Option::info), Option::info, &said));
  EXPECT_TRUE(said.ends_with(proto::encode_option(Option::abort)));
}

TEST(Negotiate, OtherInformationIsSkipped) {
  const std::string script = greeting() + reply(Option::go, OptionReply::info, std::string("\0\1name", 6)) +
                             reply(Option::go, OptionReply::info, export_info()) +
                             reply(Option::go, OptionReply::ack);
  EXPECT_TRUE(negotiate_with(script, Option::go));
}

TEST(Negotiate, ARefusalIsTheServersError) {
  const auto refused = [](OptionReply type) {
    return negotiate_with(greeting() + reply(Option::go, type, "no\nway"), Option::go).error();
  };
  EXPECT_EQ(refused(OptionReply::err_unknown).code, Errc::not_found);
  EXPECT_EQ(refused(OptionReply::err_policy).code, Errc::permission);
  EXPECT_EQ(refused(OptionReply::err_unsup).code, Errc::not_supported);
  EXPECT_EQ(refused(OptionReply::err_shutdown).code, Errc::unavailable);
  EXPECT_THAT(refused(OptionReply::err_unknown).what, HasSubstr("no\\x0away"));
}

TEST(Negotiate, AServerThatBreaksTheProtocolIsRefused) {
  const std::string huge_claim = reply(Option::go, OptionReply::info).substr(0, 16) + "\x7f\xff\xff\xff";
  std::string endless = greeting();
  for (int i = 0; i < 1000; ++i) endless += reply(Option::go, OptionReply::info, export_info());
  for (const std::string& script :
       {std::string("HTTP/1.1 400 Bad Request\r\n"), greeting() + std::string(20, 'x'),
        greeting() + reply(Option::info, OptionReply::ack), greeting() + reply(Option::go, OptionReply::ack),
        greeting() + huge_claim, endless}) {
    const auto terms = negotiate_with(script, Option::go);
    ASSERT_FALSE(terms.has_value());
    EXPECT_EQ(terms.error().code, Errc::protocol) << terms.error().what;
  }
}

TEST(Negotiate, AServerThatGoesAwayIsGone) {
  const std::string whole = agreement(Option::go);
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto terms = negotiate_with(whole.substr(0, length), Option::go);
    ASSERT_FALSE(terms.has_value()) << length;
    EXPECT_EQ(terms.error().code, Errc::peer_gone) << length;
  }
}

TEST(Negotiate, AServerThatIsSilentTimesOut) {
  const Pair pair;
  net::set_patience(pair.client.get(), std::chrono::milliseconds(1));
  EXPECT_EQ(negotiate(pair.client.get(), "vol", Option::go).error().code, Errc::timeout);
}

// A server that has the next connection's script, or cannot be reached.
class ScriptedConnector final : public Connector {
 public:
  explicit ScriptedConnector(std::string name) : name_(std::move(name)) {}

  Result<net::OwnedFd> connect() override {
    ++connects_count;
    if (script.empty()) return fail(Errc::unavailable, name_ + " is away");
    Pair pair;
    EXPECT_EQ(::send(pair.server.get(), script.data(), script.size(), 0),
              static_cast<ssize_t>(script.size()));
    kept_ = std::move(pair.server);
    net::set_patience(pair.client.get(), std::chrono::seconds(1));
    return std::move(pair.client);
  }
  std::string name() const override { return name_; }

  std::string script;
  int connects_count = 0;

 private:
  std::string name_;
  net::OwnedFd kept_;
};

class ServersTest : public testing::Test {
 protected:
  ServersTest() {
    std::vector<std::unique_ptr<Connector>> connectors;
    for (ScriptedConnector*& one : connectors_) {
      auto connector = std::make_unique<ScriptedConnector>(&one == &connectors_[0] ? "a" : "b");
      one = connector.get();
      connectors.push_back(std::move(connector));
    }
    servers_ = std::make_unique<Servers>(std::move(connectors), "vol");
  }

  std::array<ScriptedConnector*, 2> connectors_{};
  std::unique_ptr<Servers> servers_;
};

TEST_F(ServersTest, WhoeverAgreesIsAskedFirstNextTime) {
  connectors_[0]->script = greeting() + reply(Option::go, OptionReply::err_platform, "another server has it");
  connectors_[1]->script = agreement(Option::go);
  ASSERT_TRUE(servers_->open());
  EXPECT_EQ(servers_->current_name(), "b");
  ASSERT_TRUE(servers_->open());
  EXPECT_EQ(connectors_[0]->connects_count, 1);
  connectors_[1]->script.clear();
  connectors_[0]->script = agreement(Option::go, 4096);
  const auto link = servers_->open();
  ASSERT_TRUE(link.has_value()) << link.error().what;
  EXPECT_EQ(link->terms.size_bytes, 4096U);
  EXPECT_EQ(servers_->current_name(), "a");
}

TEST_F(ServersTest, WithoutAnyTheFirstErrorIsTold) {
  connectors_[1]->script = greeting() + reply(Option::go, OptionReply::err_unknown, "none");
  EXPECT_EQ(servers_->open().error(), (Error{Errc::unavailable, "a is away"}));
}

TEST_F(ServersTest, ALinkForTheKernelHasNoTimeLimits) {
  connectors_[0]->script = agreement(Option::go);
  const auto link = servers_->open();
  ASSERT_TRUE(link.has_value());
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    timeval value{.tv_sec = 1, .tv_usec = 1};
    socklen_t length = sizeof value;
    ASSERT_EQ(::getsockopt(link->socket.get(), SOL_SOCKET, option, &value, &length), 0);
    EXPECT_EQ(value.tv_sec, 0);
    EXPECT_EQ(value.tv_usec, 0);
  }
}

TEST_F(ServersTest, ALookAsksOnlyWhoServes) {
  connectors_[1]->script = agreement(Option::info, 8192);
  EXPECT_FALSE(servers_->look());
  EXPECT_EQ(connectors_[1]->connects_count, 0);
}

}  // namespace
}  // namespace fdbnbd::attach
