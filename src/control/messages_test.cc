#include "control/messages.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/limits.h"
#include "base/random.h"
#include "control/fake_store_testing.h"
#include "control/json.h"
#include "control/line_buffer.h"
#include "control/time_text.h"

namespace fdbnbd::control {
namespace {

using ::testing::HasSubstr;

std::string without_newline(std::string line) {
  EXPECT_TRUE(line.ends_with('\n'));
  line.pop_back();
  EXPECT_EQ(line.find('\n'), std::string::npos);
  return line;
}

TEST(ControlRequest, EveryVerbIsReadAsWritten) {
  const Request requests[] = {
      HelloRequest{},
      CreateRequest{.name = "a\"\n\\b",
                    .size_bytes = limits::kMaxVolumeBytes,
                    .block_bytes = 65536,
                    .compression = volume::Compression::zstd},
      ListRequest{},
      ListRequest{.labels = {"owner", "tier=1"}},
      InfoRequest{.name = "größe"},
      ResizeRequest{.name = "a", .size_bytes = 512, .allow_shrink = true},
      RemoveRequest{.name = ""},
      RemoveRequest{.name = "a", .with_snapshots = true},
      RemoveRequest{.name = "a", .now = true},
      RemoveRequest{.name = "a", .now = true, .id = UINT64_MAX},
      TrashListRequest{},
      TrashRestoreRequest{.name = "a", .new_name = ""},
      TrashRestoreRequest{.name = "a", .new_name = "b"},
      TrashPurgeRequest{.name = "a"},
      TrashPurgeRequest{},
      LabelSetRequest{.name = "a", .labels = {"owner=db", "tier="}},
      LabelRemoveRequest{.name = "a", .labels = {"owner"}},
      QuotaSetRequest{.name = "a", .quota_bytes = 4096},
      GroupCreateRequest{.name = "g", .volumes = {"a"}},
      GroupRemoveRequest{.name = "g"},
      GroupAddRequest{.name = "g", .volumes = {"a", "b"}},
      GroupTakeOutRequest{.name = "g", .volumes = {"a"}},
      GroupListRequest{},
      GroupSnapRequest{.name = "g@1"},
      GroupRollbackRequest{.name = "g@1"},
      SnapRequest{.names = {"a@1", "b@1"}},
      SnapRequest{.names = {"a@1"}, .created = WallTime(std::chrono::seconds(1'600'000'000))},
      RollbackRequest{.name = "a@1", .disconnect = false},
      RollbackRequest{.name = "a@1", .disconnect = true},
      CloneRequest{.name = "a@1", .new_name = "b"},
      FlattenRequest{.name = "a"},
      CopyRequest{.name = "a", .new_name = "b"},
      RenameRequest{.name = "a", .new_name = "b"},
      DiffRequest{.name = "a@2", .from = "1", .begin_bytes = 4096},
      DiffRequest{.name = "a", .from = std::nullopt, .begin_bytes = 0},
      ImportBeginRequest{{.volume = "a",
                          .partial = "a.importing",
                          .from = volume::SnapshotRef{.name = "1", .id = UINT64_MAX},
                          .to = volume::SnapshotRef{.name = "2", .id = 7},
                          .options = {.size_bytes = 512, .block_bytes = 8192}}},
      ImportFinishRequest{{.volume = "a",
                           .partial = "b",
                           .partial_id = UINT64_MAX,
                           .from = std::nullopt,
                           .to = std::nullopt,
                           .options = {.size_bytes = 512, .block_bytes = 8192}}},
      UsageRequest{.name = "a"},
      UsageRequest{},
      CheckRequest{.name = "a"},
      CheckRequest{.name = {}, .repair = true},
      CheckRequest{},
      LockListRequest{},
      LockBreakRequest{.name = "a"},
      StatusRequest{},
      NbdRequest{},
  };
  for (const Request& request : requests) {
    const auto line = encode_request(request);
    ASSERT_TRUE(line.has_value());
    const auto again = decode_request(without_newline(*line));
    ASSERT_TRUE(again.has_value()) << *line << again.error().what;
    EXPECT_EQ(*again, request) << *line;
  }
}

TEST(ControlRequest, FieldsThatAreNotGivenHaveTheirDefaults) {
  const auto request = decode_request(R"({"verb":"create","name":"a","size_bytes":1024})");
  ASSERT_TRUE(request.has_value());
  const volume::CreateOptions defaults;
  EXPECT_EQ(*request, Request(CreateRequest{.name = "a",
                                            .size_bytes = 1024,
                                            .block_bytes = defaults.block_bytes,
                                            .compression = defaults.compression}));
}

TEST(ControlRequest, NamesThatAreNotUtf8AreRefusedBeforeTheyAreSent) {
  const auto line = encode_request(InfoRequest{.name = "\xff\xfe"});
  ASSERT_FALSE(line.has_value());
  EXPECT_EQ(line.error().code, Errc::invalid);
}

TEST(ControlRequest, HostileMessagesAreInvalidAndNothingElse) {
  const std::string messages[] = {
      "",
      " ",
      "x",
      "null",
      "1",
      "[]",
      "\"ls\"",
      "{}",
      "{",
      R"({"verb":1})",
      R"({"verb":null})",
      R"({"verb":"LS"})",
      R"({"verb":"ls","verb2":"x"})",
      R"({"verb":"ls"} trailing)",
      R"({"verb":"ls"}{"verb":"ls"})",
      R"({"verb":"rm"})",
      R"({"verb":"rm","name":["a"]})",
      R"({"verb":"rm","name":"a","force":true})",
      R"({"verb":"create","name":"a"})",
      R"({"verb":"create","name":"a","size_bytes":-1})",
      R"({"verb":"create","name":"a","size_bytes":1.5})",
      R"({"verb":"create","name":"a","size_bytes":"1G"})",
      R"({"verb":"create","name":"a","size_bytes":1e400})",
      R"({"verb":"create","name":"a","size_bytes":99999999999999999999999})",
      R"({"verb":"create","name":"a","size_bytes":512,"block_size":4294967296})",
      R"({"verb":"create","name":"a","size_bytes":512,"compression":"gzip"})",
      R"({"verb":"resize","name":"a","size_bytes":512,"allow_shrink":1})",
      "{\"verb\":\"ls\xff\"}",
      std::string("{\"verb\":\"ls\0\"}", 13),
      std::string(100'000, '['),
      std::string(100'000, '{'),
      "{\"verb\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}",
  };
  for (const std::string& message : messages) {
    const auto request = decode_request(message);
    ASSERT_FALSE(request.has_value()) << message.substr(0, 80);
    EXPECT_EQ(request.error().code, Errc::invalid);
    EXPECT_FALSE(request.error().what.empty());
  }
}

std::string object_of(size_t fields_count, const std::string& value) {
  std::string text = "{";
  for (size_t i = 0; i < fields_count; ++i)
    text += fmt::format("{}\"{:05}\":{}", i == 0 ? "" : ",", i, value);
  return text + "}";
}

TEST(ControlJson, AnObjectHasABoundedNumberOfFields) {
  const auto what_of = [](const std::string& text) {
    const auto json = parse_object(text, Errc::invalid);
    return json ? std::string() : json.error().what;
  };
  const size_t most = limits::kMaxJsonFields;
  EXPECT_EQ(what_of(object_of(most, "1")), "");
  EXPECT_THAT(what_of(object_of(most + 1, "1")), HasSubstr("more than 256 fields"));
  // Each for itself, however they lie in each other.
  EXPECT_EQ(what_of(object_of(most, object_of(most, "1"))), "");
  EXPECT_THAT(what_of("{\"a\":[[" + object_of(most + 1, "1") + "]]}"), HasSubstr("more than"));
  EXPECT_THAT(what_of(object_of(most + 1, "[[{\"a\":1}]]")), HasSubstr("more than"));
  EXPECT_THAT(what_of(object_of(100'000, "0")), HasSubstr("more than"));
}

TEST(ControlRequest, AnyBytesChangedInAMessageNeverCrashTheReader) {
  Random random(7);
  const std::string good = *encode_request(CreateRequest{
      .name = "name", .size_bytes = 1 << 20, .block_bytes = 4096, .compression = volume::Compression::lz4});
  for (int round = 0; round < 20'000; ++round) {
    std::string bad = good;
    for (uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
      bad[random.below(bad.size())] = static_cast<char>(random.below(256));
    }
    const auto request = decode_request(bad);
    if (!request) EXPECT_EQ(request.error().code, Errc::invalid);
    const auto message = decode_server_message(bad);
    if (!message) EXPECT_EQ(message.error().code, Errc::protocol);
  }
}

TEST(ControlAnswer, ResultsErrorsAndProgressAreReadAsWritten) {
  EXPECT_EQ(decode_server_message(without_newline(encode_progress(3, UINT64_MAX))),
            ServerMessage(ProgressReport{.done_bytes = 3, .total_bytes = UINT64_MAX}));
  EXPECT_EQ(decode_server_message(without_newline(encode_result(R"({"schema":1,"a":[]})"))),
            ServerMessage(ResultText{R"({"schema":1,"a":[]})"}));
  for (int code = 0; code <= static_cast<int>(Errc::newer_format); ++code) {
    const Error error{static_cast<Errc>(code), "what \"happened\"\n"};
    EXPECT_EQ(decode_server_message(without_newline(encode_error(error))), ServerMessage(error));
  }
}

TEST(ControlAnswer, ErrorTextThatIsNotUtf8IsStillSent) {
  const auto message = decode_server_message(without_newline(encode_error({Errc::io, "path \xff"})));
  ASSERT_TRUE(message.has_value());
  EXPECT_THAT(std::get<Error>(*message).what, HasSubstr("path "));
}

TEST(ControlAnswer, AnErrorCodeOfANewerServerIsAnIoError) {
  const auto message = decode_server_message(R"({"error":{"code":"new_kind","message":"m"}})");
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(*message, ServerMessage(Error{Errc::io, "m"}));
}

TEST(ControlAnswer, EverythingElseBreaksTheProtocol) {
  for (const std::string text :
       {"", "{}", "[]", R"({"result":1})", R"({"result":{},"error":{}})", R"({"other":{}})",
        R"({"progress":{"done_bytes":1}})", R"({"progress":{"done_bytes":-1,"total_bytes":1}})",
        R"({"error":{"code":"io"}})", R"({"error":"io"})"}) {
    const auto message = decode_server_message(text);
    ASSERT_FALSE(message.has_value()) << text;
    EXPECT_EQ(message.error().code, Errc::protocol);
  }
}

volume::VolumeInfo example_volume() {
  return {.name = "example",
          .id = 9,
          .size_bytes = 1ULL << 30,
          .used_bytes = 4096,
          .block_bytes = 4096,
          .compression = volume::Compression::lz4,
          .created = WallTime(std::chrono::seconds(1'700'000'000)),
          .read_only = false,
          .quota_bytes = 4096,
          .labels = {{"owner", "db"}},
          .sessions_count = 2,
          .snapshots = {{"monday", UINT64_MAX, 512, WallTime(std::chrono::seconds(1'600'000'000))}}};
}

bool same(const volume::VolumeInfo& a, const volume::VolumeInfo& b) {
  return volume_result(a) == volume_result(b);
}

TEST(ControlResult, TheListOfVolumesHasTheDocumentedForm) {
  EXPECT_EQ(
      volumes_result({example_volume()}),
      R"({"schema":1,"volumes":[{"name":"example","id":9,"size_bytes":1073741824,"used_bytes":4096,)"
      R"("block_size":4096,"compression":"lz4","created":"2023-11-14T22:13:20Z","read_only":false,)"
      R"("quota_bytes":4096,"labels":{"owner":"db"},)"
      R"("sessions":2,"snapshots":[{"name":"monday","id":18446744073709551615,"size_bytes":512,"created":"2020-09-13T12:26:40Z"}]}]})");
  EXPECT_EQ(volumes_result({}), R"({"schema":1,"volumes":[]})");
}

TEST(ControlResult, TheTrashAndGroupsAreReadAsWritten) {
  const volume::TrashEntry entry{.name = "a",
                                 .id = 7,
                                 .size_bytes = 1024,
                                 .used_bytes = 512,
                                 .snapshots_count = 2,
                                 .trashed = WallTime(std::chrono::seconds(1'600'000'000)),
                                 .expires = WallTime(std::chrono::seconds(1'600'086'400))};
  const auto entries = read_trash(trash_result({entry}));
  ASSERT_TRUE(entries.has_value());
  ASSERT_EQ(entries->size(), 1U);
  EXPECT_EQ(entries->front().id, 7U);
  EXPECT_EQ(entries->front().expires, entry.expires);
  EXPECT_EQ(read_removed(removed_result(entry)).value()->name, "a");
  EXPECT_FALSE(read_removed(removed_result(std::nullopt)).value());
  const auto groups = read_groups(
      groups_result({{.name = "g", .members = {"a", "b"}, .snapshots = {{"monday", 7, 512, {}}}}}));
  ASSERT_TRUE(groups.has_value());
  ASSERT_EQ(groups->size(), 1U);
  EXPECT_EQ(groups->front().members, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(groups->front().snapshots.front().name, "monday");
}

TEST(ControlResult, ResultsAreReadAsWritten) {
  const auto volume = read_volume(volume_result(example_volume()));
  ASSERT_TRUE(volume.has_value());
  EXPECT_TRUE(same(*volume, example_volume()));
  const auto volumes = read_volumes(volumes_result({example_volume(), example_volume()}));
  ASSERT_TRUE(volumes.has_value());
  ASSERT_EQ(volumes->size(), 2U);
  EXPECT_TRUE(same(volumes->at(1), example_volume()));

  const auto usage = read_usage(usage_result(
      {{.name = "a",
        .size_bytes = 1024,
        .space = {.used_bytes = 512, .stored_bytes = 100, .unique_bytes = 70, .shared_bytes = 30},
        .snapshots = {{.name = "monday", .space = {.used_bytes = 256}}}}}));
  ASSERT_TRUE(usage.has_value());
  EXPECT_EQ(usage->at(0).name, "a");
  EXPECT_EQ(usage->at(0).space.stored_bytes, 100U);
  EXPECT_EQ(usage->at(0).space.unique_bytes, 70U);
  EXPECT_EQ(usage->at(0).space.shared_bytes, 30U);
  ASSERT_EQ(usage->at(0).snapshots.size(), 1U);
  EXPECT_EQ(usage->at(0).snapshots[0].space.used_bytes, 256U);

  const volume::CheckReport report{
      .volumes_count = 3,
      .blocks_count = 77,
      .findings = {{.volume = "a", .offset_bytes = 4096, .length_bytes = 8192, .what = "checksum"}},
      .findings_count = 12};
  const auto check = read_check(check_result(report));
  ASSERT_TRUE(check.has_value());
  EXPECT_EQ(check->volumes_count, 3U);
  EXPECT_EQ(check->blocks_count, 77U);
  EXPECT_EQ(check->findings_count, 12U);
  EXPECT_EQ(check->findings.at(0).offset_bytes, 4096U);
  EXPECT_EQ(check->findings.at(0).what, "checksum");

  const StatusReply status = FakeStatus().status();
  EXPECT_EQ(read_status(status_result(status)), status);
  const HelloReply hello{.pid = 17, .version = "1", .store = "memory:"};
  EXPECT_EQ(read_hello(hello_result(hello)), hello);
}

TEST(ControlResult, ReadersRefuseOtherSchemasAndOtherForms) {
  for (const std::string text :
       {"", "{}", R"({"schema":2,"volumes":[]})", R"({"schema":1})", R"({"schema":1,"volumes":{}})",
        R"({"schema":1,"volumes":[1]})", R"({"schema":1,"volumes":[{}]})"}) {
    const auto volumes = read_volumes(text);
    ASSERT_FALSE(volumes.has_value()) << text;
    EXPECT_EQ(volumes.error().code, Errc::protocol);
    EXPECT_FALSE(read_usage(text).has_value());
    EXPECT_FALSE(read_check(text).has_value());
    EXPECT_FALSE(read_status(text).has_value());
    EXPECT_FALSE(read_hello(text).has_value());
  }
}

TEST(TimeText, IsRfc3339InUtc) {
  EXPECT_EQ(format_time(WallTime(std::chrono::seconds(0))), "1970-01-01T00:00:00Z");
  EXPECT_EQ(format_time(WallTime(std::chrono::milliseconds(951'782'399'999))), "2000-02-28T23:59:59Z");
  EXPECT_EQ(parse_time("2000-02-29T00:00:00Z"), WallTime(std::chrono::seconds(951'782'400)));
  for (const auto* text : {"", "2000-02-30T00:00:00Z", "2000-02-29 00:00:00Z", "2000-02-29T24:00:00Z",
                           "2000-02-29T00:00:00+00:00", "2000-02-29T00:00:00", "a000-02-29T00:00:00Z"}) {
    EXPECT_FALSE(parse_time(text).has_value()) << text;
  }
}

std::vector<std::string> lines_of(LineBuffer& buffer) {
  std::vector<std::string> lines;
  while (auto line = buffer.next()) {
    lines.push_back(line->has_value() ? **line : std::string(errc_name(line->error().code)));
  }
  return lines;
}

TEST(LineBuffer, LinesComeOutHoweverTheBytesArrive) {
  const std::string text = "one\n\nthree\n" + std::string(8, 'x') + "\n" + std::string(9, 'y') + "\nsix\n" +
                           std::string(50, 'z') + "\neight\nrest";
  const std::vector<std::string> expected = {"one",       "",    "three",     "xxxxxxxx",
                                             "too_large", "six", "too_large", "eight"};
  for (size_t step = 1; step <= text.size(); ++step) {
    LineBuffer buffer(8);
    std::vector<std::string> lines;
    for (size_t at = 0; at < text.size(); at += step) {
      buffer.append(std::string_view(text).substr(at, step));
      for (auto& line : lines_of(buffer)) lines.push_back(std::move(line));
      EXPECT_LE(buffer.size(), 8U);
    }
    EXPECT_EQ(lines, expected) << "in steps of " << step;
    EXPECT_EQ(buffer.size(), 4U);
  }
}

}  // namespace
}  // namespace fdbnbd::control
