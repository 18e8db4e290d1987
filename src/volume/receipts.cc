#include "volume/receipts.h"

#include <memory>
#include <string>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "volume/records.h"

namespace fdbnbd::volume {

ReceiptId Receipts::new_id() {
  while (true) {
    const uint64_t id = random_.next();
    if (id != 0 && id != UINT64_MAX) return ReceiptId{id};
  }
}

Task<Result<std::optional<uint32_t>>> Receipts::find(kv::Transaction& transaction, const Call& call,
                                                     uint32_t attempts_count) {
  const std::string key = keys_.receipt(call.id);
  const std::string end = key_after(key);
  transaction.add_read_conflict({key, end});
  if (attempts_count == 0) co_return std::nullopt;
  auto value = co_await transaction.get(key, kv::Isolation::snapshot);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return std::nullopt;
  ASSIGN_OR_CO_RETURN(const ReceiptRecord receipt, ReceiptRecord::decode(**value));
  if (receipt.attempt == ReceiptRecord::kRefused) co_return std::nullopt;
  if (receipt.attempt >= attempts_count) co_return fail(Errc::corruption, "a receipt record makes no sense");
  co_return receipt.attempt;
}

void Receipts::write(kv::Transaction& transaction, Call& call, uint32_t attempt) {
  const ReceiptRecord receipt{.attempt = attempt, .created = executor_.clock().wall_now()};
  transaction.set(keys_.receipt(call.id), receipt.encode());
  call.has_receipt = true;
}

Task<void> Receipts::clear() {
  const std::vector<ReceiptId> ids = std::exchange(done_, {});
  if (ids.empty()) co_return;
  const std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
  for (const ReceiptId id : ids) transaction->clear(keys_.receipt(id));
  const auto cleared = co_await transaction->commit();
  if (!cleared) log::debug("{} receipts are left until they expire: {}", ids.size(), cleared.error().what);
}

Task<void> Receipts::clear_expired() {
  if (!engine_.capabilities().commits_can_be_in_doubt) co_return;
  auto body = [&](kv::Transaction& transaction) { return clear_expired_in(transaction); };
  const Result<void> cleared = co_await kv::transact<void>(engine_, executor_, random_, body);
  if (!cleared) log::debug("old receipts are left: {}", cleared.error().what);
}

// Some at a time; what is left goes another time.
Task<Result<void>> Receipts::clear_expired_in(kv::Transaction& transaction) {
  transaction.set_background();
  const std::string begin = keys_.type_begin('R');
  const std::string end = keys_.type_end('R');
  auto page = co_await transaction.get_range({begin, end}, {.rows_limit = limits::kReceiptsPerClearing},
                                             kv::Isolation::snapshot);
  if (!page) co_return propagate(page);
  const WallTime now = executor_.clock().wall_now();
  for (const kv::KeyValue& row : page->rows) {
    const auto receipt = ReceiptRecord::decode(row.value);
    // One that is damaged tells nobody anything.
    if (receipt ? receipt->created + limits::kReceiptLifetime < now
                : receipt.error().code == Errc::corruption)
      transaction.clear(row.key);
  }
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
