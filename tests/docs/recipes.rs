//! Every task of an operator has a recipe, and a test runs every recipe (crates/consul-ha/tests/tools/recipes).

use crate::support::recipes::{RECIPES, recipes};

#[test]
fn every_recipe_of_operators_is_run_by_a_test() {
    let (preamble, recipes) = recipes();
    assert!(preamble.contains("export CONSUL_HTTP_ADDR"), "the commands before the recipes");
    let mut listed: Vec<&str> = RECIPES.iter().map(|(name, _)| *name).collect();
    let mut of_page: Vec<&str> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
    listed.sort_unstable();
    of_page.sort_unstable();
    assert_eq!(of_page, listed, "the sections of the page, and the recipes that tests run");
    for recipe in &recipes {
        assert!(!recipe.steps.is_empty(), "{} has no commands", recipe.name);
        assert!(
            recipe.steps.iter().any(|step| step.prints.is_some()),
            "{} prints nothing",
            recipe.name
        );
    }
}
