#include "proto/option.h"

#include <gtest/gtest.h>

#include <array>

#include "base/limits.h"
#include "base/random.h"
#include "proto/client_testing.h"

namespace fdbnbd::proto {
namespace {

using namespace std::string_literals;
using client::counted;
using client::info_payload;
using client::meta_payload;

const std::string kAllocation = "base:allocation";

template <std::unsigned_integral T>
std::string number(T value) {
  std::string bytes;
  append_be(bytes, value);
  return bytes;
}

template <size_t N>
std::string text_of(const std::array<std::byte, N>& bytes) {
  return std::string(as_text(bytes));
}

std::optional<OptionHeader> decode_header(const std::string& bytes) {
  return decode_option_header(
      std::span<const std::byte, kOptionHeaderBytes>(as_bytes(bytes).data(), kOptionHeaderBytes));
}

TEST(OptionHeader, GivesOptionAndLength) {
  const auto header = decode_header(client::option_header(Option::go, 0xfffffffe));
  ASSERT_TRUE(header);
  EXPECT_EQ(header->option, Option::go);
  EXPECT_EQ(header->payload_bytes, 0xfffffffe);
  EXPECT_EQ(decode_header(client::option(0xffffffff))->option, Option{0xffffffff});
}

TEST(OptionHeader, WrongMagicIsRefused) {
  for (const uint64_t magic : {uint64_t{0}, kNbdMagic, kOptionReplyMagic, kIHaveOpt ^ 1, UINT64_MAX})
    EXPECT_FALSE(decode_header(client::option(1, {}, magic)));
}

// Texts that are no string of the protocol, with what is wrong.
std::vector<std::pair<const char*, std::string>> bad_strings() {
  return {{"4097 bytes", std::string(4097, 'x')}, {"a NUL", "di\0sk"s},
          {"a NUL at the end", "disk\0"s},        {"invalid UTF-8", "\xc3\x28"},
          {"a surrogate", "\xed\xa0\x80"},        {"an overlong form", "\xc0\xaf"},
          {"a cut character", "disk\xe2\x98"}};
}

TEST(ExportName, TheWholePayloadIsTheName) {
  EXPECT_EQ(decode_export_name(as_bytes("disk")), "disk");
  EXPECT_EQ(decode_export_name({}), "");
  const std::string longest(limits::kMaxStringBytes, 'x');
  EXPECT_EQ(decode_export_name(as_bytes(longest)), longest);
}

TEST(ExportName, WhatIsNoStringIsInvalid) {
  for (const auto& [what, name] : bad_strings()) {
    const auto decoded = decode_export_name(as_bytes(name));
    ASSERT_FALSE(decoded) << what;
    EXPECT_EQ(decoded.error().code, Errc::invalid) << what;
  }
}

TEST(InfoRequest, GivesNameAndInfos) {
  const std::string payload = info_payload("disk", {3, 0x1234, 0});
  const auto request = decode_info_request(as_bytes(payload));
  ASSERT_TRUE(request);
  EXPECT_EQ(request->export_name, "disk");
  EXPECT_TRUE(request->wants(InfoType::export_));
  EXPECT_TRUE(request->wants(InfoType::block_size));
  EXPECT_FALSE(request->wants(InfoType::name));
  EXPECT_FALSE(request->wants(InfoType::description));
}

TEST(InfoRequest, LongestNameAndMostInfosAreValid) {
  const std::string payload =
      info_payload(std::string(limits::kMaxStringBytes, 'x'), std::vector<uint16_t>(0xffff, 1));
  EXPECT_EQ(payload.size(), kMaxInfoRequestBytes);
  const auto request = decode_info_request(as_bytes(payload));
  ASSERT_TRUE(request);
  EXPECT_TRUE(request->wants(InfoType::name));
  EXPECT_FALSE(request->wants(InfoType::export_));
}

TEST(InfoRequest, LengthsThatDoNotFitAreInvalid) {
  const std::string whole = info_payload("disk", {3, 1});
  std::vector<std::string> payloads = {
      number(uint32_t{5}) + "disk\0\0"s,  // the name reaches into the count
      number(uint32_t{6}) + "disk\0\0"s,  // the name takes all
      number(uint32_t{UINT32_MAX}) + "disk\0\0"s,
      number(uint32_t{0xfffffffc}) + "disk\0\0"s,
      counted("disk") + number(uint16_t{1}),  // an info is missing
      counted("disk") + number(uint16_t{0xffff}) + number(uint16_t{3}),
      info_payload("disk") + "\0"s,  // something behind it
      counted("disk") + number(uint16_t{1}) + number(uint16_t{3}) + number(uint16_t{3}),
  };
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) payloads.push_back(whole.substr(0, bytes));
  for (const std::string& payload : payloads) {
    const auto request = decode_info_request(as_bytes(payload));
    ASSERT_FALSE(request) << payload.size();
    EXPECT_EQ(request.error().code, Errc::invalid);
  }
}

TEST(InfoRequest, NameThatIsNoStringIsInvalid) {
  for (const auto& [what, name] : bad_strings())
    EXPECT_FALSE(decode_info_request(as_bytes(info_payload(name)))) << what;
}

TEST(MetaRequest, GivesNameAndQueries) {
  const std::string payload = meta_payload("disk", {"x-a:", kAllocation, "qemu:dirty-bitmap:b"});
  const auto request = decode_meta_request(as_bytes(payload));
  ASSERT_TRUE(request);
  EXPECT_EQ(request->export_name, "disk");
  EXPECT_EQ(request->queries_count, 3u);
  ByteView queries = request->queries;
  EXPECT_EQ(next_query(queries), "x-a:");
  EXPECT_EQ(next_query(queries), kAllocation);
  EXPECT_EQ(next_query(queries), "qemu:dirty-bitmap:b");
  EXPECT_TRUE(queries.empty());
}

TEST(MetaRequest, LongestOfEverythingIsValid) {
  const std::string longest(limits::kMaxStringBytes - 2, 'y');
  const std::string payload = meta_payload(std::string(limits::kMaxStringBytes, 'x'),
                                           std::vector<std::string>(limits::kMaxMetaQueries, "x:" + longest));
  EXPECT_LE(payload.size(), limits::kMaxOptionBytes);
  EXPECT_TRUE(decode_meta_request(as_bytes(payload)));
}

TEST(MetaRequest, LengthsThatDoNotFitAreInvalid) {
  const std::string whole = meta_payload("disk", {kAllocation, "x:y"});
  std::vector<std::string> payloads = {
      number(uint32_t{1} << 20) + "disk" + number(uint32_t{0}),
      number(uint32_t{UINT32_MAX}) + "disk" + number(uint32_t{0}),
      counted("disk") + number(uint32_t{1}),
      counted("disk") + number(uint32_t{2}) + counted(kAllocation),
      counted("disk") + number(uint32_t{UINT32_MAX}) + counted(kAllocation),
      counted("disk") + number(uint32_t{1}) + number(uint32_t{16}) + kAllocation,
      counted("disk") + number(uint32_t{1}) + number(uint32_t{UINT32_MAX}) + kAllocation,
      meta_payload("disk", {kAllocation}) + "\0"s,
      meta_payload("disk") + "\0"s,
  };
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) payloads.push_back(whole.substr(0, bytes));
  for (const std::string& payload : payloads) {
    const auto request = decode_meta_request(as_bytes(payload));
    ASSERT_FALSE(request) << payload.size();
    EXPECT_EQ(request.error().code, Errc::invalid);
  }
}

TEST(MetaRequest, TooManyQueriesAreTooLarge) {
  std::vector<std::string> queries(limits::kMaxMetaQueries + 1, "x:y");
  const auto request = decode_meta_request(as_bytes(meta_payload("disk", queries)));
  ASSERT_FALSE(request);
  EXPECT_EQ(request.error().code, Errc::too_large);
}

TEST(MetaRequest, StringsThatAreNoneAreInvalid) {
  for (const auto& [what, text] : bad_strings()) {
    EXPECT_FALSE(decode_meta_request(as_bytes(meta_payload(text)))) << what;
    EXPECT_FALSE(decode_meta_request(as_bytes(meta_payload("disk", {"x:" + text})))) << what;
  }
}

TEST(MetaRequest, QueryWithoutANamespaceIsInvalid) {
  for (const char* query : {"", "base", ":", ":allocation"})
    EXPECT_FALSE(decode_meta_request(as_bytes(meta_payload("disk", {query})))) << query;
}

TEST(MetaQuery, MatchesTheWholeNameOrListsANamespace) {
  for (const auto kind : {MetaQueryKind::list, MetaQueryKind::set}) {
    EXPECT_TRUE(query_matches("base:allocation", kAllocation, kind));
    for (const char* query :
         {"base:alloc", "base:allocation2", "BASE:allocation", "x-base:allocation", "b:", "x:"})
      EXPECT_FALSE(query_matches(query, kAllocation, kind)) << query;
  }
  EXPECT_TRUE(query_matches("base:", kAllocation, MetaQueryKind::list));
  EXPECT_FALSE(query_matches("base:", kAllocation, MetaQueryKind::set));
}

TEST(OptionPayloads, AnyBytesAreDecodedOrRefusedWithoutReadingBeyondThem) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    // Mostly plausible: a valid payload with a few bytes changed, copied to memory of its exact size.
    std::string payload =
        random.one_in(2) ? info_payload("disk", {1, 2, 3}) : meta_payload("disk", {"a:b", "c:"});
    for (uint64_t changes = random.below(4); changes > 0; --changes)
      payload[random.below(payload.size())] = static_cast<char>(random.below(8));
    payload.resize(random.below(payload.size() + 1));
    const std::vector<std::byte> exact(as_bytes(payload).begin(), as_bytes(payload).end());
    if (const auto request = decode_info_request(exact)) {
      EXPECT_EQ(6 + request->export_name.size() + request->info_types.size(), exact.size())
          << "seed " << seed;
    }
    if (const auto request = decode_meta_request(exact)) {
      ByteView queries = request->queries;
      for (uint32_t index = 0; index < request->queries_count; ++index) next_query(queries);
      EXPECT_TRUE(queries.empty()) << "seed " << seed;
    }
  }
}

TEST(InfoPayloads, AreAsTheSpecificationLaysThemOut) {
  std::array<std::byte, kInfoExportBytes> export_info;
  encode_info_export(export_info, 0x0102030405060708, 0x090a);
  EXPECT_EQ(text_of(export_info), "\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a"s);

  std::array<std::byte, kInfoBlockSizeBytes> sizes;
  encode_info_block_size(sizes, {.min_bytes = 1, .preferred_bytes = 4096, .max_payload_bytes = 32 << 20});
  EXPECT_EQ(text_of(sizes), "\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0"s);

  std::array<std::byte, kInfoStringHeaderBytes> name;
  encode_info_string_header(name, InfoType::name);
  EXPECT_EQ(text_of(name), "\0\x01"s);

  std::array<std::byte, kServerHeaderBytes> server;
  encode_server_header(server, 0x01020304);
  EXPECT_EQ(text_of(server), "\x01\x02\x03\x04");

  std::array<std::byte, kMetaContextHeaderBytes> context;
  encode_meta_context_header(context, 0x05060708);
  EXPECT_EQ(text_of(context), "\x05\x06\x07\x08");
}

}  // namespace
}  // namespace fdbnbd::proto
