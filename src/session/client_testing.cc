#include "session/client_testing.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>

#include "base/assert.h"
#include "base/endian.h"
#include "proto/constants.h"
#include "proto/handshake.h"
#include "proto/reply.h"

namespace fdbnbd::session {

using proto::ChunkType;
using proto::Command;
using proto::NbdError;

namespace {

constexpr size_t kServerGreetingBytes = proto::kGreetingBytes;

void append_option(std::string& to, proto::Option option, const std::string& payload) {
  append_be(to, proto::kIHaveOpt);
  append_be(to, static_cast<uint32_t>(option));
  append_be(to, static_cast<uint32_t>(payload.size()));
  to += payload;
}

std::string name_field(const std::string& name) {
  std::string field;
  append_be(field, static_cast<uint32_t>(name.size()));
  return field + name;
}

}  // namespace

std::string TestClient::handshake_bytes(const Options& options) {
  std::string out;
  append_be(out, proto::kFlagCFixedNewstyle | proto::kFlagCNoZeroes);
  if (options.structured) append_option(out, proto::Option::structured_reply, "");
  if (options.structured && options.contexts) {
    std::string payload = name_field(options.export_name);
    append_be(payload, uint32_t{1});
    payload += name_field("base:allocation");
    append_option(out, proto::Option::set_meta_context, payload);
  }
  std::string go = name_field(options.export_name);
  append_be(go, uint16_t{0});
  append_option(out, proto::Option::go, go);
  return out;
}

Task<bool> TestClient::read(MutableByteView into) {
  const auto done = co_await stream_->read_exactly(into);
  co_return done.has_value();
}

Task<bool> TestClient::read_option_reply(std::string& payload, uint32_t& type) {
  std::array<std::byte, proto::kOptionReplyHeaderBytes> header;
  if (!co_await read(header)) co_return false;
  EXPECT_EQ(load_be<uint64_t>(header.data()), proto::kOptionReplyMagic);
  type = load_be<uint32_t>(header.data() + 12);
  payload.resize(load_be<uint32_t>(header.data() + 16));
  const bool done =
      co_await read(MutableByteView(reinterpret_cast<std::byte*>(payload.data()), payload.size()));
  co_return done;
}

Task<bool> TestClient::connect(Options options) {
  structured_ = options.structured;
  std::array<std::byte, kServerGreetingBytes> greeting;
  if (!co_await read(greeting)) co_return false;
  const std::string hello = handshake_bytes(options);
  if (!(co_await stream_->write_all(as_bytes(hello))).has_value()) co_return false;
  int acks_left = 1 + (options.structured ? 1 : 0) + (options.structured && options.contexts ? 1 : 0);
  while (acks_left > 0) {
    std::string payload;
    uint32_t type = 0;
    if (!co_await read_option_reply(payload, type)) co_return false;
    if ((type & 0x80000000) != 0) co_return false;
    if (type == static_cast<uint32_t>(proto::OptionReply::ack)) --acks_left;
    if (type == static_cast<uint32_t>(proto::OptionReply::info) && payload.size() == 12) {
      size_bytes_ = load_be<uint64_t>(payload.data() + 2);
      flags_ = load_be<uint16_t>(payload.data() + 10);
    }
  }
  co_return true;
}

std::string TestClient::encode(proto::Request& request, ByteView payload) {
  if (request.cookie == 0) request.cookie = next_cookie_++;
  std::array<std::byte, proto::kRequestBytes> header;
  proto::encode_request(header, request);
  if (request.command != Command::disc) {
    EXPECT_TRUE(pending_.emplace(request.cookie, Pending{.request = request, .reply = {}}).second);
  }
  return std::string(as_text(header)) + std::string(as_text(payload));
}

Task<uint64_t> TestClient::send(proto::Request request, std::vector<std::byte> payload) {
  const std::string bytes = encode(request, payload);
  (void)co_await stream_->write_all(as_bytes(bytes));
  co_return request.cookie;
}

Task<ClientReply> TestClient::call(proto::Request request, std::vector<std::byte> payload) {
  const uint64_t cookie = co_await send(request, std::move(payload));
  auto reply = co_await receive();
  if (!reply) {
    ADD_FAILURE() << "no reply";
    co_return ClientReply{
        .cookie = cookie, .error = NbdError::eshutdown, .data = {}, .chunks = {}, .extents = {}};
  }
  EXPECT_EQ(reply->cookie, cookie);
  co_return std::move(*reply);
}

Task<void> TestClient::disconnect() {
  co_await send({.command = Command::disc});
  const auto nothing = co_await receive();
  EXPECT_FALSE(nothing.has_value());
  stream_->close();
}

Task<void> TestClient::receive_all() {
  while (!pending_.empty()) {
    if (!co_await receive()) co_return;
  }
}

Task<void> TestClient::receive_until_end(size_t& replies_count) {
  while (const auto reply = co_await receive()) {
    EXPECT_EQ(reply->error, NbdError::ok);
    ++replies_count;
  }
}

Task<std::optional<ClientReply>> TestClient::receive() {
  std::optional<ClientReply> done;
  while (!done) {
    std::array<std::byte, 4> magic_bytes;
    if (!co_await read(magic_bytes)) co_return std::nullopt;
    const auto magic = load_be<uint32_t>(magic_bytes.data());
    if (magic == proto::kStructuredReplyMagic) {
      EXPECT_TRUE(structured_);
      if (!co_await read_chunk(done)) co_return std::nullopt;
      continue;
    }
    if (magic != proto::kSimpleReplyMagic) {
      ADD_FAILURE() << "bad reply magic " << magic;
      co_return std::nullopt;
    }
    std::array<std::byte, 12> rest;
    if (!co_await read(rest)) co_return std::nullopt;
    const auto cookie = load_be<uint64_t>(rest.data() + 4);
    const auto found = pending_.find(cookie);
    if (found == pending_.end()) {
      ADD_FAILURE() << "a reply that nobody asked for: " << cookie;
      co_return std::nullopt;
    }
    const proto::Request request = found->second.request;
    ClientReply reply{.cookie = cookie,
                      .error = NbdError{load_be<uint32_t>(rest.data())},
                      .data = {},
                      .chunks = {},
                      .extents = {}};
    pending_.erase(found);
    if (request.command == Command::read) {
      EXPECT_FALSE(structured_);
      if (reply.error == NbdError::ok) {
        reply.data.resize(request.length_bytes);
        if (!co_await read(reply.data)) co_return std::nullopt;
      }
    }
    done = std::move(reply);
  }
  co_return done;
}

Task<bool> TestClient::read_chunk(std::optional<ClientReply>& done) {
  std::array<std::byte, proto::kChunkHeaderBytes - 4> header;
  if (!co_await read(header)) co_return false;
  const auto flags = load_be<uint16_t>(header.data());
  const auto type = ChunkType{load_be<uint16_t>(header.data() + 2)};
  const auto cookie = load_be<uint64_t>(header.data() + 4);
  std::vector<std::byte> body(load_be<uint32_t>(header.data() + 12));
  if (!co_await read(body)) co_return false;
  const auto found = pending_.find(cookie);
  if (found == pending_.end()) {
    ADD_FAILURE() << "a chunk that nobody asked for: " << cookie;
    co_return false;
  }
  Pending& pending = found->second;
  ClientReply& reply = pending.reply;
  reply.cookie = cookie;
  const proto::Request& request = pending.request;
  switch (type) {
    case ChunkType::none:
      EXPECT_TRUE(body.empty());
      EXPECT_NE(flags & proto::kReplyFlagDone, 0);
      break;
    case ChunkType::offset_data:
    case ChunkType::offset_hole: {
      EXPECT_EQ(request.command, Command::read);
      const bool is_hole = type == ChunkType::offset_hole;
      EXPECT_GE(body.size(), is_hole ? 12u : 9u);
      const auto offset = load_be<uint64_t>(body.data());
      const auto length =
          is_hole ? load_be<uint32_t>(body.data() + 8) : static_cast<uint32_t>(body.size() - 8);
      reply.data.resize(request.length_bytes);
      if (offset < request.offset_bytes || offset + length > request.offset_bytes + request.length_bytes) {
        ADD_FAILURE() << "a chunk outside of the request";
        co_return false;
      }
      if (!is_hole) {
        std::copy(body.begin() + 8, body.end(),
                  reply.data.begin() + static_cast<ptrdiff_t>(offset - request.offset_bytes));
      }
      reply.chunks.push_back({.type = type, .offset_bytes = offset, .length_bytes = length});
      pending.data_bytes += length;
      break;
    }
    case ChunkType::block_status:
      EXPECT_EQ(request.command, Command::block_status);
      EXPECT_TRUE(body.size() >= 12 && body.size() % 8 == 4);
      for (size_t at = 4; at + 8 <= body.size(); at += 8) {
        reply.extents.emplace_back(load_be<uint32_t>(body.data() + at),
                                   load_be<uint32_t>(body.data() + at + 4));
        EXPECT_GT(reply.extents.back().first, 0u);
      }
      break;
    case ChunkType::error:
    case ChunkType::error_offset:
      EXPECT_GE(body.size(), 6u);
      reply.error = NbdError{load_be<uint32_t>(body.data())};
      EXPECT_NE(reply.error, NbdError::ok);
      break;
    case ChunkType::block_status_ext:
      ADD_FAILURE() << "an extended chunk";
      break;
  }
  if ((flags & proto::kReplyFlagDone) != 0) {
    if (request.command == Command::read && reply.error == NbdError::ok) {
      EXPECT_EQ(pending.data_bytes, request.length_bytes);
    }
    done = std::move(reply);
    pending_.erase(found);
  }
  co_return true;
}

}  // namespace fdbnbd::session
