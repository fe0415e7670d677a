// What the accordion says about its window: which steps and layers control acts on, of the steps that will be sampled
// and the layers of the loaded model. Reads the WebUI's fields; writes into elements of ours only.
(function() {
    const TABS = ["txt2img", "img2img"];
    const SOON = 1000, SELDOM = 5000; // milliseconds
    let model = null;

    function element(tab, key) {
        return gradioApp().querySelector(`#masactrl_${tab}_${key}`);
    }

    function fieldOf(tab, key) {
        const component = element(tab, key);
        return component && component.querySelector("input[type=number], textarea, input");
    }

    function translated(text) {
        return (window.localization && window.localization[text]) || text;
    }

    function filled(template, ...values) {
        return values.reduce((text, value, index) => text.replace(`{${index}}`, value), translated(template));
    }

    /** The number in a field of ours, or `otherwise` if it is empty or no number. */
    function numberIn(tab, key, otherwise) {
        const field = fieldOf(tab, key);
        const text = field ? field.value.trim() : "";
        return /^\d+$/.test(text) ? Number(text) : otherwise;
    }

    function description(steps, start, end, layer) {
        const last = Math.min(end, steps);
        if (start > steps) {
            return filled("Will be refused: start step {0}, but {1} steps are sampled.", start, steps);
        }
        if (end < start) {
            return filled("Will be refused: end step {0} is before start step {1}.", end, start);
        }
        if (last === start) {
            return filled("Nothing is controlled: control begins at step {0} and ends before step {1}.", start, last);
        }
        const inSteps = filled("Control acts in steps {0} to {1} of {2}", start, last - 1, steps);
        if (!model) {
            return filled("{0}; its layers are known once the model is loaded.", inSteps);
        }
        if (model.refusal) {
            return model.refusal;
        }
        const layers = model.self_attention_layers;
        if (layer > layers) {
            return filled("Will be refused: start layer {0}, but the model has {1} layers.", layer, layers);
        }
        if (layer === layers) {
            return filled("Nothing is controlled: start layer {0}, but the model has {1} layers.", layer, layers);
        }
        return `${inSteps}${filled(", layers {0} to {1} of {2} ({3}).", layer, layers - 1, layers, model.family)}`;
    }

    function hostNumber(id) {
        const field = gradioApp().querySelector(`#${id} input[type=number]`);
        return field ? Number(field.value) : NaN;
    }

    /** How many steps the host samples: img2img leaves out those above its denoising strength (setup_img2img_steps). */
    function sampledSteps(tab) {
        const steps = hostNumber(`${tab}_steps`);
        const strength = hostNumber("img2img_denoising_strength");
        if (tab !== "img2img" || opts.img2img_fix_steps || isNaN(strength)) {
            return steps;
        }
        return Math.floor(Math.min(strength, 0.999) * steps) + 1;
    }

    function describe(tab) {
        const line = gradioApp().querySelector(`#masactrl_${tab}_window p`);
        const steps = sampledSteps(tab);
        if (!line || isNaN(steps)) {
            return;
        }
        const start = numberIn(tab, "start_step", 0);
        const automatic = model ? model.automatic_start_layer : 0;
        const text = description(steps, start, numberIn(tab, "end_step", steps), numberIn(tab, "start_layer", automatic));
        if (line.textContent !== text) { // written only when changed: writing is a change that would bring us back here
            line.textContent = text;
        }
        for (const input of gradioApp().querySelectorAll(`#masactrl_${tab}_start_step input`)) {
            input.max = Math.max(steps, start);
        }
        const layerField = fieldOf(tab, "start_layer");
        if (layerField && model && model.self_attention_layers) {
            layerField.placeholder = `auto: ${automatic} (0 - ${model.self_attention_layers})`;
        }
    }

    /** The host sets our tooltips after it has translated the page. */
    function translateTooltips() {
        for (const control of gradioApp().querySelectorAll("[id^=masactrl_][title]")) {
            control.title = translated(control.title);
        }
    }

    function refresh() {
        TABS.forEach(describe);
    }

    let asked = 0; // when, in milliseconds
    async function askForModel() {
        asked = Date.now();
        const answer = await fetch("./masactrl/status");
        if (answer.ok) {
            model = (await answer.json()).model;
            refresh();
        }
    }

    let checkpoint = null;
    /** The page has changed: ask if another model was chosen, or if the chosen one may be known by now. */
    function followModel() {
        const chosen = gradioApp().querySelector(".model_selection input, #setting_sd_model_checkpoint input")?.value;
        if (chosen && chosen !== checkpoint) {
            checkpoint = chosen;
            setTimeout(askForModel, SOON); // the server hears of it after the page does
        } else if (!model && Date.now() - asked > SELDOM) {
            askForModel();
        }
    }

    window.masactrlDescribeWindow = describe;

    onUiLoaded(() => {
        for (const tab of TABS) {
            for (const field of [`${tab}_steps`, `${tab}_denoising_strength`]) {
                gradioApp().querySelector(`#${field}`)?.addEventListener("input", () => describe(tab));
            }
        }
        translateTooltips();
        askForModel();
    });
    onOptionsChanged(askForModel); // the checkpoint is one of the options
    onAfterUiUpdate(() => {
        refresh(); // a paste changes fields without an event of theirs
        followModel();
    });
})();
