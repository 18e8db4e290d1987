#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/endian.h"
#include "base/limits.h"
#include "proto/client_testing.h"
#include "session/negotiator_testing.h"

// A client that haggles, for tests of the handshake.

namespace fdbnbd::session {

inline constexpr uint64_t kSize = uint64_t{64} << 30;
inline const std::string kAllocation = "base:allocation";
inline const std::string kGreeting("NBDMAGICIHAVEOPT\0\x03", 18);
inline const std::string kFlags = proto::client::flags(3);

inline block::ExportInfo disk() {
  return {.name = "disk",
          .description = "a disk",
          .size_bytes = kSize,
          .min_block_bytes = 1,
          .preferred_block_bytes = 4096,
          .max_payload_bytes = limits::kMaxPayloadBytes,
          .read_only = false};
}

inline ScriptedRegistry two_exports() {
  ScriptedRegistry registry{.exports = {disk(), disk()}, .failures = {}};
  registry.exports[1].name = "other";
  registry.exports[1].description = "";
  registry.exports[1].size_bytes = 512;
  registry.exports[1].read_only = true;
  registry.failures = {{"held", {Errc::busy, "volume \"held\" is open elsewhere"}},
                       {"secret", {Errc::permission, "not for you"}},
                       {"broken", {Errc::io, "/var/lib/store/000123.sst: read failed"}},
                       {"late", {Errc::cancelled, "the server stops"}}};
  return registry;
}

// A handshake with its client flags sent already.
class Haggle {
 public:
  explicit Haggle(uint32_t client_flags = 3, TlsPolicy tls = TlsPolicy::off,
                  ScriptedRegistry registry = two_exports())
      : registry_(std::move(registry)), driver_(registry_, tls) {
    receive(proto::client::flags(client_flags));
  }

  void receive(std::string_view bytes) { driver_.receive(bytes); }
  const Transcript& transcript() const { return driver_.transcript(); }
  Negotiator::Step step() const { return transcript().step; }
  Errc close_code() const { return transcript().close_reason.code; }

  // Bytes from the server since the last call, without the greeting.
  std::string answer(std::string_view bytes) {
    const size_t before = transcript().output.size();
    receive(bytes);
    return transcript().output.substr(before);
  }

  // The replies to one option, all of which must name it.
  std::vector<proto::client::ReceivedReply> replies(uint32_t number, std::string_view payload = {}) {
    const std::string bytes = answer(proto::client::option(number, payload));
    std::string_view rest = bytes;
    std::vector<proto::client::ReceivedReply> result;
    while (auto reply = proto::client::take_reply(rest)) {
      EXPECT_EQ(reply->option, number);
      result.push_back(std::move(*reply));
    }
    EXPECT_TRUE(rest.empty()) << "bytes that are no option reply";
    return result;
  }
  std::vector<proto::client::ReceivedReply> replies(proto::Option number, std::string_view payload = {}) {
    return replies(static_cast<uint32_t>(number), payload);
  }

  // The type of the only reply.
  proto::OptionReply reply(uint32_t number, std::string_view payload = {}) {
    const auto all = replies(number, payload);
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? proto::OptionReply{} : all.back().type;
  }
  proto::OptionReply reply(proto::Option number, std::string_view payload = {}) {
    return reply(static_cast<uint32_t>(number), payload);
  }

  std::vector<std::string> contexts(proto::Option number, std::string_view name,
                                    const std::vector<std::string>& queries) {
    std::vector<std::string> names;
    for (const proto::client::ReceivedReply& reply :
         replies(number, proto::client::meta_payload(name, queries)))
      if (reply.type == proto::OptionReply::meta_context) names.push_back(reply.payload.substr(4));
    return names;
  }

  uint16_t flags_of_info(std::string_view name) {
    const auto all = replies(proto::Option::info, proto::client::info_payload(name));
    return load_be<uint16_t>(all.at(0).payload.data() + 10);
  }

  void expect_in_sync() {
    EXPECT_EQ(step(), Negotiator::Step::input);
    EXPECT_EQ(replies(proto::Option::list).size(), registry_.exports.size() + 1);
  }

 private:
  ScriptedRegistry registry_;
  Driver driver_;
};

// SET_META_CONTEXT.
inline std::string set(std::string_view name, const std::vector<std::string>& queries) {
  return proto::client::option(proto::Option::set_meta_context, proto::client::meta_payload(name, queries));
}

}  // namespace fdbnbd::session
