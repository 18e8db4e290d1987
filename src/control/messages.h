#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "volume/store.h"

// The messages of the control socket: one JSON object a line (docs/control.md). Pure: text in, values out.

namespace fdbnbd::control {

// The "schema" of every result, and of --json.
inline constexpr int kSchema = 1;

// What a client asks, one type per verb.
struct HelloRequest {
  static constexpr std::string_view kVerb = "hello";
  friend bool operator==(const HelloRequest&, const HelloRequest&) = default;
};
struct CreateRequest {
  static constexpr std::string_view kVerb = "create";
  std::string name;
  uint64_t size_bytes = 0;
  uint32_t block_bytes = 0;
  volume::Compression compression = volume::Compression::none;
  std::optional<WallTime> created = {};  // now, where it is not given; to the second
  uint64_t quota_bytes = 0;              // 0: none
  friend bool operator==(const CreateRequest&, const CreateRequest&) = default;
};
struct ListRequest {
  static constexpr std::string_view kVerb = "ls";
  std::vector<std::string> labels;  // KEY or KEY=VALUE: volumes that have all of them
  friend bool operator==(const ListRequest&, const ListRequest&) = default;
};
struct InfoRequest {
  static constexpr std::string_view kVerb = "info";
  std::string name;
  friend bool operator==(const InfoRequest&, const InfoRequest&) = default;
};
struct ResizeRequest {
  static constexpr std::string_view kVerb = "resize";
  std::string name;
  uint64_t size_bytes = 0;
  bool allow_shrink = false;
  friend bool operator==(const ResizeRequest&, const ResizeRequest&) = default;
};
struct RemoveRequest {
  static constexpr std::string_view kVerb = "rm";
  std::string name;
  bool with_snapshots = false;
  bool now = false;  // not by way of the trash
  uint64_t id = 0;   // only while the name is this volume's; 0: whatever has it
  friend bool operator==(const RemoveRequest&, const RemoveRequest&) = default;
};
struct TrashListRequest {
  static constexpr std::string_view kVerb = "trash-ls";
  friend bool operator==(const TrashListRequest&, const TrashListRequest&) = default;
};
struct TrashRestoreRequest {
  static constexpr std::string_view kVerb = "trash-restore";
  std::string name;      // or id
  std::string new_name;  // empty: the one it had
  friend bool operator==(const TrashRestoreRequest&, const TrashRestoreRequest&) = default;
};
struct TrashPurgeRequest {
  static constexpr std::string_view kVerb = "trash-purge";
  std::optional<std::string> name;  // or id; everything where it is not given
  friend bool operator==(const TrashPurgeRequest&, const TrashPurgeRequest&) = default;
};
struct LabelSetRequest {
  static constexpr std::string_view kVerb = "label-set";
  std::string name;
  std::vector<std::string> labels;  // KEY=VALUE
  friend bool operator==(const LabelSetRequest&, const LabelSetRequest&) = default;
};
struct LabelRemoveRequest {
  static constexpr std::string_view kVerb = "label-rm";
  std::string name;
  std::vector<std::string> labels;  // keys
  friend bool operator==(const LabelRemoveRequest&, const LabelRemoveRequest&) = default;
};
struct QuotaSetRequest {
  static constexpr std::string_view kVerb = "quota-set";
  std::string name;
  uint64_t quota_bytes = 0;  // 0: none
  friend bool operator==(const QuotaSetRequest&, const QuotaSetRequest&) = default;
};
struct GroupCreateRequest {
  static constexpr std::string_view kVerb = "group-create";
  std::string name;
  std::vector<std::string> volumes;
  friend bool operator==(const GroupCreateRequest&, const GroupCreateRequest&) = default;
};
struct GroupRemoveRequest {
  static constexpr std::string_view kVerb = "group-rm";
  std::string name;
  friend bool operator==(const GroupRemoveRequest&, const GroupRemoveRequest&) = default;
};
struct GroupAddRequest {
  static constexpr std::string_view kVerb = "group-add";
  std::string name;
  std::vector<std::string> volumes;
  friend bool operator==(const GroupAddRequest&, const GroupAddRequest&) = default;
};
struct GroupTakeOutRequest {
  static constexpr std::string_view kVerb = "group-remove";
  std::string name;
  std::vector<std::string> volumes;
  friend bool operator==(const GroupTakeOutRequest&, const GroupTakeOutRequest&) = default;
};
struct GroupListRequest {
  static constexpr std::string_view kVerb = "group-ls";
  friend bool operator==(const GroupListRequest&, const GroupListRequest&) = default;
};
struct GroupSnapRequest {
  static constexpr std::string_view kVerb = "group-snap";
  std::string name;  // GROUP@SNAP
  friend bool operator==(const GroupSnapRequest&, const GroupSnapRequest&) = default;
};
struct GroupRollbackRequest {
  static constexpr std::string_view kVerb = "group-rollback";
  std::string name;  // GROUP@SNAP
  friend bool operator==(const GroupRollbackRequest&, const GroupRollbackRequest&) = default;
};
struct RenameRequest {
  static constexpr std::string_view kVerb = "mv";
  std::string name;
  std::string new_name;
  friend bool operator==(const RenameRequest&, const RenameRequest&) = default;
};
struct SnapRequest {
  static constexpr std::string_view kVerb = "snap";
  std::vector<std::string> names;        // VOL@SNAP
  std::optional<WallTime> created = {};  // as of CreateRequest
  friend bool operator==(const SnapRequest&, const SnapRequest&) = default;
};
struct RollbackRequest {
  static constexpr std::string_view kVerb = "rollback";
  std::string name;         // VOL@SNAP
  bool disconnect = false;  // the clients
  friend bool operator==(const RollbackRequest&, const RollbackRequest&) = default;
};
struct CloneRequest {
  static constexpr std::string_view kVerb = "clone";
  std::string name;  // VOL@SNAP
  std::string new_name;
  friend bool operator==(const CloneRequest&, const CloneRequest&) = default;
};
struct FlattenRequest {
  static constexpr std::string_view kVerb = "flatten";
  std::string name;
  friend bool operator==(const FlattenRequest&, const FlattenRequest&) = default;
};
struct CopyRequest {
  static constexpr std::string_view kVerb = "cp";
  std::string name;  // of a volume or VOL@SNAP
  std::string new_name;
  friend bool operator==(const CopyRequest&, const CopyRequest&) = default;
};
struct DiffRequest {
  static constexpr std::string_view kVerb = "diff";
  std::string name;                 // of a volume or VOL@SNAP: the later point
  std::optional<std::string> from;  // a snapshot of the same volume, without its name
  uint64_t begin_bytes = 0;
  friend bool operator==(const DiffRequest&, const DiffRequest&) = default;
};
struct ImportBeginRequest {
  static constexpr std::string_view kVerb = "import-begin";
  volume::DiffImport import;
  friend bool operator==(const ImportBeginRequest&, const ImportBeginRequest&) = default;
};
struct ImportFinishRequest {
  static constexpr std::string_view kVerb = "import-finish";
  volume::DiffImport import;
  friend bool operator==(const ImportFinishRequest&, const ImportFinishRequest&) = default;
};
struct UsageRequest {
  static constexpr std::string_view kVerb = "du";
  std::optional<std::string> name;  // all volumes where it is not given
  friend bool operator==(const UsageRequest&, const UsageRequest&) = default;
};
struct CheckRequest {
  static constexpr std::string_view kVerb = "check";
  std::optional<std::string> name;  // everything where it is not given
  bool repair = false;              // of everything
  friend bool operator==(const CheckRequest&, const CheckRequest&) = default;
};
struct LockListRequest {
  static constexpr std::string_view kVerb = "lock-ls";
  friend bool operator==(const LockListRequest&, const LockListRequest&) = default;
};
struct LockBreakRequest {
  static constexpr std::string_view kVerb = "lock-break";
  std::string name;
  friend bool operator==(const LockBreakRequest&, const LockBreakRequest&) = default;
};
struct StatusRequest {
  static constexpr std::string_view kVerb = "status";
  friend bool operator==(const StatusRequest&, const StatusRequest&) = default;
};
// The connection becomes an NBD connection behind the answer; the server speaks first.
struct NbdRequest {
  static constexpr std::string_view kVerb = "nbd";
  friend bool operator==(const NbdRequest&, const NbdRequest&) = default;
};

using Request =
    std::variant<HelloRequest, CreateRequest, ListRequest, InfoRequest, ResizeRequest, RemoveRequest,
                 TrashListRequest, TrashRestoreRequest, TrashPurgeRequest, LabelSetRequest,
                 LabelRemoveRequest, QuotaSetRequest, GroupCreateRequest, GroupRemoveRequest, GroupAddRequest,
                 GroupTakeOutRequest, GroupListRequest, GroupSnapRequest, GroupRollbackRequest, RenameRequest,
                 SnapRequest, RollbackRequest, CloneRequest, FlattenRequest, CopyRequest, DiffRequest,
                 ImportBeginRequest, ImportFinishRequest, UsageRequest, CheckRequest, LockListRequest,
                 LockBreakRequest, StatusRequest, NbdRequest>;

// Whether carrying it out twice is as good as once.
bool only_reads(const Request& request);

// One line with its newline. Errc::invalid where a name is not UTF-8.
Result<std::string> encode_request(const Request& request);
// A line without its newline. Errc::invalid for anything that is not a request of this version: no JSON
// object, an unknown verb or field, a field that is missing or of the wrong kind.
Result<Request> decode_request(std::string_view line);

// Answers. A result is a JSON object, and is what --json prints.
std::string encode_result(std::string_view result);
std::string encode_error(const Error& error);
std::string encode_progress(uint64_t done_bytes, uint64_t total_bytes);

struct ProgressReport {
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
  friend bool operator==(const ProgressReport&, const ProgressReport&) = default;
};
struct ResultText {
  std::string text;  // a JSON object
  friend bool operator==(const ResultText&, const ResultText&) = default;
};
using ServerMessage = std::variant<ProgressReport, ResultText, Error>;
// A line without its newline. Errc::protocol for anything else. An error code that this version does not know
// becomes Errc::io.
Result<ServerMessage> decode_server_message(std::string_view line);

// Results of the verbs, written and read.
struct HelloReply {
  int64_t pid = 0;
  std::string version;
  std::string store;
  friend bool operator==(const HelloReply&, const HelloReply&) = default;
};

struct StatusReply {
  int64_t pid = 0;
  std::string version;
  std::string store;   // its URL
  std::string engine;  // "rocksdb", "memory"
  WallTime started{};
  uint64_t uptime_s = 0;
  std::vector<std::string> listen;
  std::string control;  // the socket's path; empty where there is none
  uint64_t volumes_count = 0;
  uint64_t volumes_open_count = 0;
  uint64_t sessions_count = 0;  // NBD connections
  uint64_t requests_in_flight_count = 0;
  uint64_t bytes_in_flight = 0;
  uint64_t store_bytes = 0;         // on disk, as far as the engine knows
  uint64_t memory_bound_bytes = 0;  // what caches, buffers and requests in flight may take at most
  friend bool operator==(const StatusReply&, const StatusReply&) = default;
};

std::string hello_result(const HelloReply& reply);
std::string done_result();
std::string volume_result(const volume::VolumeInfo& volume);
std::string volumes_result(const std::vector<volume::VolumeInfo>& volumes);
std::string diff_result(const volume::DiffPage& page);
std::string usage_result(const std::vector<volume::VolumeUsage>& usages);
std::string check_result(const volume::CheckReport& report);
std::string groups_result(const std::vector<volume::GroupInfo>& groups);
std::string removed_result(const std::optional<volume::TrashEntry>& trashed);
std::string trash_result(const std::vector<volume::TrashEntry>& entries);
std::string locks_result(const std::vector<volume::LockInfo>& locks);
std::string lock_broken_result(const std::string& holder);
std::string status_result(const StatusReply& reply);

// Errc::protocol where the text is not such a result.
Result<HelloReply> read_hello(std::string_view result);
Result<volume::VolumeInfo> read_volume(std::string_view result);
Result<std::vector<volume::VolumeInfo>> read_volumes(std::string_view result);
Result<volume::DiffPage> read_diff(std::string_view result);
Result<std::vector<volume::VolumeUsage>> read_usage(std::string_view result);
Result<volume::CheckReport> read_check(std::string_view result);
Result<std::vector<volume::GroupInfo>> read_groups(std::string_view result);
// What went to the trash; nothing where it was removed at once.
Result<std::optional<volume::TrashEntry>> read_removed(std::string_view result);
Result<std::vector<volume::TrashEntry>> read_trash(std::string_view result);
Result<std::vector<volume::LockInfo>> read_locks(std::string_view result);
// The former holder.
Result<std::string> read_lock_broken(std::string_view result);
Result<StatusReply> read_status(std::string_view result);

}  // namespace fdbnbd::control
