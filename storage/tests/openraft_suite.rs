//! openraft's own suite for log stores and state machines, on a real disk.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use nigh_storage::raft::Published;
use nigh_storage::{DataDir, LogStore, Options, StateMachine, Stores, TypeConfig};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (DataDir, TempDir)> for Builder {
    async fn build(
        &self,
    ) -> Result<((DataDir, TempDir), LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let options = Options::new(std::sync::Arc::new(|_: Published| ()), [7; 32]);
        let stores = Stores::open(folder.path(), options).expect("an empty folder opens");
        Ok(((stores.data, folder), stores.log, stores.machine))
    }
}

#[tokio::test]
async fn the_stores_pass_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
